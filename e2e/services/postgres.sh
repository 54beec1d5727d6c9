#!/bin/sh
# PostgreSQL as its own user, as the usual images run it: makes the cluster first where there is none.
set -eu
data=/var/lib/postgresql/data
mkdir -p "$data" /run/postgresql
chown postgres:postgres "$data" /run/postgresql
as_postgres="setpriv --reuid=postgres --regid=postgres --clear-groups"
if [ ! -e "$data/PG_VERSION" ]; then
  $as_postgres /usr/lib/postgresql/15/bin/initdb -D "$data" --auth=trust --locale=C --encoding=UTF8 --no-sync >/dev/null
  echo "host all all 0.0.0.0/0 trust" >>"$data/pg_hba.conf"
fi
exec $as_postgres /usr/lib/postgresql/15/bin/postgres -D "$data" -h 0.0.0.0 -p 5432 -c jit=off
