//go:build tools

// Package runc keeps runc in go.mod, so that go.sum pins all that it is built from.
package runc

import _ "github.com/opencontainers/runc"
