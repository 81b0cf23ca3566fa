/* A model in ONNX Runtime: the graph that finds nuclei, and the network that refines outlines. */

import * as ort from "onnxruntime-web/wasm";

const LOG = Float32Array.from({ length: 256 }, (_, k) => Math.log((k + 1) / 256));

/* Opens graphs, and runs them on windows of planes {pixels, width, height}. */
export class Model {
  static async open({ wasm, model, refiner, card }) {
    Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: wasm, proxy: false });
    ort.env.logLevel = "error";
    const opened = new Model();
    const create = (bytes) => ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
    opened.card = card;
    opened.session = await create(model);
    opened.refiner = card.refine ? await create(refiner) : null;
    return opened;
  }

  /* The nuclei of a window, by descending score, with positions in its pixels and rays in um. */
  async find({ pixels, width, height }, colour) {
    const { session } = this;
    const shape = [1, 3, height, width];
    const isDensity = session.inputNames[0] === "density";
    const input = isDensity
      ? new ort.Tensor("float32", Float32Array.from(pixels, (level) => LOG[level]), shape)
      : new ort.Tensor("uint8", pixels, shape);
    const feeds = { [session.inputNames[0]]: input, colour: new ort.Tensor("float32", colour, [3, 4]) };
    const { xy, score, prob, rays } = await session.run(feeds, ["xy", "score", "prob", "rays"]);
    const n = score.data.reduce((count, each) => count + (each > 0), 0);
    const nRays = rays.dims[2];
    return {
      n, nRays,
      xy: Float64Array.from(xy.data.subarray(0, 2 * n)),
      score: score.data.slice(0, n),
      prob: this.temper(prob.data.slice(0, n * prob.dims[2])),
      rays: rays.data.slice(0, n * nRays),
    };
  }

  /* Class probabilities with their logits divided by the temperature of the card. */
  temper(prob) {
    const { temperature = 1, classes } = this.card;
    if (temperature === 1) return prob;
    const raised = prob.map((each) => Math.max(each, 1e-37) ** (1 / temperature));
    return raised.map((each, k) => {
      const first = k - (k % classes.length);
      return each / raised.subarray(first, first + classes.length).reduce((sum, part) => sum + part);
    });
  }

  async change(density, rays) {
    const feeds = {
      density: new ort.Tensor("float32", density, [3, 17, 64, 16]),
      rays: new ort.Tensor("float32", rays, [64, 16]),
    };
    return (await this.refiner.run(feeds, ["change"])).change.data;
  }
}
