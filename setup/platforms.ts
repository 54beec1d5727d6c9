/** The kinds of machine that UMS is made for, by Debian's names. */
export const platforms = {
  amd64: { node: "x64", triplet: "x86_64-linux-gnu", loader: "ld-linux-x86-64.so.2" },
  arm64: { node: "arm64", triplet: "aarch64-linux-gnu", loader: "ld-linux-aarch64.so.1" },
} as const satisfies Record<string, Readonly<{ node: NodeJS.Architecture; triplet: string; loader: string }>>;

export type Architecture = keyof typeof platforms;

/** This machine's. @throws Error where UMS is not made for it */
export function ownArchitecture(): Architecture {
  const own = (Object.keys(platforms) as Architecture[]).find((each) => platforms[each].node === process.arch);
  if (own === undefined) throw new Error(`UMS brings CRIU for x64 and arm64 only, not for ${process.arch}.`);
  return own;
}
