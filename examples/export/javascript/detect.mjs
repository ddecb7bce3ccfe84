// node detect.mjs bolts.onnx photo.png     (npm install onnxruntime-web sharp; the same calls run in a browser)
import * as ort from "onnxruntime-web";
import sharp from "sharp";
import { readFileSync } from "node:fs";

const session = await ort.InferenceSession.create(readFileSync(process.argv[2]));
const shape = session.inputMetadata[0].shape;
const resize = { kernel: "cubic", fit: "fill" };
const photo = sharp(process.argv[3]).removeAlpha().toColourspace("srgb").resize(shape[2], shape[1], resize);
const pixels = new ort.Tensor("uint8", await photo.raw().toBuffer(), shape);
const { score, anomaly_map: map } = await session.run({ pixels });
const place = map.data.indexOf(map.data.reduce((a, b) => Math.max(a, b)));
console.log(`score ${score.data[0].toFixed(4)}, most anomalous at ${place % shape[2]},${Math.floor(place / shape[2])}`);
