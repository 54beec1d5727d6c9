/** A picture of a benchmark: bars of the median downtime, their thin line from the fastest to the slowest round. */
export type Spread = Readonly<{ median: number; min: number; max: number }>;
export type Row = Readonly<{ subject: string; memoryMiB: number; link: string; downtimeMs: Spread; totalMs: Spread; rounds: number }>;

const colours: Record<string, string> = {
  ums: "#0b7a75",
  podman: "#b5651d",
  kubelet: "#b5651d",
  "runc+criu": "#6c757d",
  host: "#6c757d",
};
const barHeight = 18;
const width = 900;
const labelWidth = 250;

export function chart(rows: readonly Row[]): string {
  const longest = Math.max(1, ...rows.map(({ downtimeMs }) => downtimeMs.max));
  // Milliseconds span three orders of magnitude, so the scale is logarithmic.
  const scale = (ms: number) => (Math.log10(Math.max(ms, 10) / 10) / Math.log10(longest / 10 + 1e-9)) * (width - labelWidth - 90);
  let y = 40;
  let group = "";
  const parts: string[] = [];
  for (const { subject, memoryMiB, link, downtimeMs } of rows) {
    const name = `${link}, ${memoryMiB} MiB`;
    if (name !== group) {
      y += 14;
      group = name;
      parts.push(text({ x: 10, y: y + 13, content: name, weight: "bold" }));
    }
    parts.push(
      text({ x: labelWidth - 8, y: y + 13, content: subject, anchor: "end" }),
      `<rect x="${labelWidth}" y="${y + 2}" width="${scale(downtimeMs.median).toFixed(1)}" height="${barHeight - 4}" fill="${colours[subject] ?? "#444"}"/>`,
      `<line x1="${(labelWidth + scale(downtimeMs.min)).toFixed(1)}" x2="${(labelWidth + scale(downtimeMs.max)).toFixed(1)}" y1="${y + 9}" y2="${y + 9}" stroke="#111"/>`,
      text({ x: labelWidth + scale(downtimeMs.max) + 6, y: y + 13, content: `${downtimeMs.median} ms` }),
    );
    y += barHeight;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y + 20}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>
${text({ x: 10, y: 22, content: "Downtime that a client sees (median of the rounds, log scale; line: fastest to slowest)", weight: "bold" })}
${parts.join("\n")}
</svg>
`;
}

function text({
  x,
  y,
  content,
  anchor = "start",
  weight = "normal",
}: {
  x: number;
  y: number;
  content: string;
  anchor?: string;
  weight?: string;
}): string {
  return `<text x="${x.toFixed(1)}" y="${y}" text-anchor="${anchor}" font-weight="${weight}">${content}</text>`;
}
