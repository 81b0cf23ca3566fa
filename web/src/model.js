/* A model in ONNX Runtime: the graph that finds nuclei, and the network that refines outlines. */

import * as ort from "onnxruntime-web/wasm";
import * as gpuOrt from "onnxruntime-web/webgpu";
import { IDENTITY } from "./stain.js";

const LOG = Float32Array.from({ length: 256 }, (_, k) => Math.log((k + 1) / 256));

const TEST_PX = 256;

/* A window with dark discs on pink ground, on which a processor and a GPU are compared. */
function drawTest() {
  const plane = TEST_PX * TEST_PX;
  const pixels = new Uint8Array(3 * plane);
  for (let i = 0; i < plane; i++) {
    const [x, y] = [(i % TEST_PX) % 32 - 16, Math.floor(i / TEST_PX) % 32 - 16];
    const isNucleus = x * x + 1.5 * y * y < 60;
    [[90, 225], [60, 160], [130, 200]].forEach(([dark, pale], c) => {
      pixels[c * plane + i] = (isNucleus ? dark : pale) + ((i * 7919) % 23);
    });
  }
  return { pixels, width: TEST_PX, height: TEST_PX };
}

/* True if two results have the same nuclei. */
const areEqual = (a, b) => a.n > 0 && a.n === b.n
  && a.score.every((score, i) => Math.abs(score - b.score[i]) < 2e-3)
  && a.xy.every((px, i) => Math.abs(px - b.xy[i]) < 0.1);

function create({ env, InferenceSession }, provider, wasmBinary, bytes) {
  Object.assign(env.wasm, { numThreads: 1, proxy: false, wasmBinary });
  return InferenceSession.create(bytes, { executionProviders: [provider], logSeverityLevel: 3 });
}

/* Opens graphs, and runs them on windows of planes {pixels, width, height}. */
export class Model {
  static async open({ wasm, model, refiner, card }) {
    const opened = new Model();
    Object.assign(opened, { card, session: await create(ort, "wasm", wasm, model) });
    opened.refiner = card.refine ? await create(ort, "wasm", wasm, refiner) : null;
    return opened;
  }

  /* Use the GPU if it returns what the processor does, and is faster. */
  async tryGpu({ wasm, gpuWasm, model }) {
    const [own, window] = [this.session, drawTest()];
    const seconds = async () => {
      const start = performance.now();
      await this.find(window, IDENTITY);
      return performance.now() - start;
    };
    const slow = Math.min(await seconds(), await seconds());
    this.session = await create(ort, "wasm", wasm, model);
    const expected = await this.find(window, IDENTITY);
    try {
      this.session = await create(gpuOrt, "webgpu", gpuWasm, model);
      const isEqual = areEqual(expected, await this.find(window, IDENTITY));
      this.onGpu = isEqual && Math.min(await seconds(), await seconds()) < slow;
    } catch {
      this.onGpu = false; // a driver may fail in any way
    }
    if (!this.onGpu) this.session = own;
    return this.onGpu;
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
