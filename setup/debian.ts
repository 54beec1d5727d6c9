/** What the machine's own apt configuration says. */
import { execa } from "execa";

/** The mirror that the machine installs from; Debian's own where the machine is no Debian. */
export async function debianMirror(): Promise<string> {
  const fields = "$(REPO_URI) $(ORIGIN) $(SUITE)";
  const { stdout } = await execa("apt-get", ["indextargets", "--format", fields, "Created-By: Packages"], { reject: false });
  const lines = stdout.split("\n").map((line) => line.split(" "));
  const debian = lines.find(([, origin, suite]) => origin === "Debian" && !suite?.includes("security"));
  return debian?.[0] ?? "http://deb.debian.org/debian";
}
