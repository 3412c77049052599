// Two rows, three classes:
//
//   LOSSWIRE_TARGET=localhost:50051 node example.js

import { Client } from "./losswire.js";

const client = new Client(process.env.LOSSWIRE_TARGET ?? "localhost:50051");
const logits = Float32Array.of(2, 1, 0.5, 1, 0.5, 0);
const ids = Int32Array.of(0, 1);

const { perExample, gradLogits } = await client.softmaxCrossEntropy(logits, [2, 3], ids);
console.log("losses   ", [...perExample]);
console.log("gradients", [...gradLogits]);

const { loss } = await client.softmaxCrossEntropy(logits, [2, 3], ids, "MEAN");
console.log("mean     ", loss[0]);
client.close();
