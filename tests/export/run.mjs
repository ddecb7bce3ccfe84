// Exported files in onnxruntime-web (WebAssembly) against what check.py wrote beside them.
//
//     node run.mjs FOLDER

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as ort from "onnxruntime-web";

const folder = process.argv[2];
let failed = false;
for (const name of readdirSync(folder).filter((name) => name.endsWith(".json"))) {
  const { file, limits, inputs, scores, skip } = JSON.parse(readFileSync(join(folder, name)));
  if (skip) continue;
  const session = await ort.InferenceSession.create(readFileSync(join(folder, file)));
  const part = name.replace(".json", "");
  let worst = 0;
  let least = 1;
  for (const [number, expected] of scores.entries()) {
    const start = join(folder, part, String(number).padStart(2, "0"));
    const feed = {};
    for (const [port, shape] of Object.entries(inputs)) {
      feed[port] = new ort.Tensor("uint8", readFileSync(`${start}.${port}.bytes`), shape);
    }
    const { score, anomaly_map: map } = await session.run(feed);
    const bytes = readFileSync(`${start}.map`);
    const wanted = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    worst = Math.max(worst, Math.abs(score.data[0] - expected) / Math.abs(expected));
    least = Math.min(least, cosine(map.data, wanted));
  }
  await session.release();
  const good = worst <= limits.score && least >= limits.cosine;
  failed ||= !good;
  console.log(
    `${part.padEnd(24)} ort-web      score off by ${worst.toExponential(1)}, smallest cosine ` +
      `${least.toFixed(6)}${good ? "" : "  FAILED"}`,
  );
}
process.exit(failed ? 1 : 0);

function cosine(a, b) {
  if (a.length !== b.length) return -1;
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return ab / Math.sqrt(aa * bb);
}
