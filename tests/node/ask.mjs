// Reads questions as lines of JSON, asks the server, writes the answers as lines of JSON.

import { createInterface } from "node:readline";
import { Client } from "../../examples/node/losswire.js";

const client = new Client(process.argv[2]);
const kinds = { float32: Float32Array, float64: Float64Array };
const plain = (values) => values && { shape: values.shape, values: [...values].map(String) };

for await (const line of createInterface({ input: process.stdin })) {
  const { dtype, logits, shape, ids, reduction } = JSON.parse(line);
  try {
    const made = BigInt64Array.from(ids, BigInt);
    const answer = await client.softmaxCrossEntropy(
      kinds[dtype].from(logits), shape, made, reduction,
    );
    const names = Object.keys(answer);
    const shown = Object.fromEntries(names.map((name) => [name, plain(answer[name])]));
    console.log(JSON.stringify(shown));
  } catch (error) {
    console.log(JSON.stringify({ code: error.code, message: error.details ?? error.message }));
  }
}
client.close();
