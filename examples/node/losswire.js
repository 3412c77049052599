// A small client: softmax cross-entropy over gRPC, tensors as typed arrays.
//
// Messages come from the .proto files, so that every other loss and option is a field away. Tensors
// are little-endian and row-major; typed arrays are what the machine is, and all that Node runs on
// today is little-endian.

import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const PROTO = fileURLToPath(new URL("../../proto", import.meta.url));
const DEADLINE_MS = 30_000;
const LARGEST_MESSAGE = 2 ** 31 - 1;

const TYPES = {
  DATA_TYPE_FLOAT32: Float32Array,
  DATA_TYPE_FLOAT64: Float64Array,
  DATA_TYPE_INT32: Int32Array,
  DATA_TYPE_INT64: BigInt64Array,
};

/** A typed array and its shape, as the message losswire.v1.Tensor. */
export function tensor(array, shape) {
  const dtype = Object.keys(TYPES).find((name) => array instanceof TYPES[name]);
  if (!dtype) throw new TypeError(`array: expected one of ${Object.keys(TYPES)}, received ${array}`);
  const size = shape.reduce((product, length) => product * length, 1);
  if (size !== array.length) {
    throw new RangeError(`shape: expected ${array.length} elements, received [${shape}]`);
  }
  const data = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  return { dtype, shape, data };
}

/** The message losswire.v1.Tensor as a typed array with its shape; null stays null. */
export function array(message) {
  if (!message) return null;
  const { dtype, shape, data } = message;
  const bytes = Uint8Array.from(data); // a copy, aligned for any type
  const values = new TYPES[dtype](bytes.buffer);
  return Object.assign(values, { shape: shape.map(Number) });
}

export class Client {
  constructor(target, credentials = grpc.credentials.createInsecure()) {
    const definition = protoLoader.loadSync("losswire_proto/v1/loss_service.proto", {
      includeDirs: [PROTO],
      longs: String,
      enums: String,
      oneofs: true,
      arrays: true, // a scalar has an empty shape, not none
    });
    const { LossService } = grpc.loadPackageDefinition(definition).losswire.v1;
    this.stub = new LossService(target, credentials, {
      "grpc.max_send_message_length": LARGEST_MESSAGE,
      "grpc.max_receive_message_length": LARGEST_MESSAGE,
    });
  }

  close() {
    this.stub.close();
  }

  /**
   * Softmax cross-entropy and its gradient.
   *
   * @param logits typed array of floats, row-major
   * @param shape of the logits, classes last
   * @param ids class ids, one for each row
   * @param reduction "NONE", "SUM" or "MEAN"
   * @returns {Promise<{loss, perExample, gradLogits}>} typed arrays; loss is null for "NONE"
   */
  async softmaxCrossEntropy(logits, shape, ids, reduction = "NONE") {
    const reply = await this.compute({
      options: {
        axis: -1,
        reduction: `REDUCTION_${reduction}`,
        gradLogits: true,
        softmaxCrossEntropy: {},
      },
      labels: tensor(ids, shape.slice(0, -1)),
      logits: tensor(logits, shape),
    });
    return {
      loss: array(reply.loss),
      perExample: array(reply.perExample),
      gradLogits: array(reply.gradLogits),
    };
  }

  /** The RPC Compute: losswire.v1.ComputeRequest in, losswire.v1.ComputeResponse out. */
  compute(request) {
    const deadline = Date.now() + DEADLINE_MS;
    return new Promise((resolve, reject) => {
      this.stub.compute(request, { deadline }, (error, reply) => {
        if (error) reject(error);
        else resolve(reply);
      });
    });
  }
}
