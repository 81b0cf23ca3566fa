/* Pixels, tissue, stains and cards. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { readCard, readMetadata } from "../src/card.js";
import { dropSmall, label, newMask, touchedCells } from "../src/mask.js";
import { findDoubts, toCsv, toGeoJson } from "../src/output.js";
import { readArea, workSize } from "../src/resample.js";
import { colourOf, eigenvectors, fitMacenko, IDENTITY, invert3, percentile, permutation } from "../src/stain.js";
import { estimateGlass, findTissue } from "../src/tissue.js";

const near = (value, expected, tolerance) => assert.ok(Math.abs(value - expected) <= tolerance, `${value} is not ${expected}`);

/* A slide of one level whose pixels `paint(x, y)` returns. */
function slideOf(size, mpp, paint) {
  const read = (level, x, y, width, height) => {
    const pixels = new Uint8ClampedArray(width * height * 3);
    for (let i = 0; i < width * height; i++) pixels.set(paint(x + (i % width), y + Math.floor(i / width)), 3 * i);
    return pixels;
  };
  return { size, mpp: [mpp, mpp], levels: [{ size, downsample: [1, 1] }], read };
}

test("pixels are means of the pixels that they cover", async () => {
  const slide = slideOf([8, 8], 0.25, (x, y) => [10 * x, 10 * y, 100]);
  assert.deepEqual([...await readArea(slide, 0, 0.5, [1, 2], [2, 1])], [25, 45, 100, 45, 45, 100]);
  assert.deepEqual([...await readArea(slide, 0, 0.4, [0, 0], [1, 1])], [4, 4, 100]); // (10 * 0.6) / 1.6 + 0.5
});

test("a coarse slide is interpolated between the centres of its pixels", async () => {
  const slide = slideOf([4, 4], 1, (x) => [40 * x, 0, 0]);
  const row = await readArea(slide, 0, 0.5, [0, 0], [5, 1]);
  assert.deepEqual([...row].filter((_, i) => i % 3 === 0), [0, 10, 30, 50, 70]);
  assert.deepEqual(workSize(slide, 0.5), [8, 8]);
});

test("what lies beyond the slide is white", async () => {
  const slide = slideOf([3, 2], 0.5, () => [7, 7, 7]);
  assert.deepEqual([...await readArea(slide, 0, 0.5, [2, 1], [2, 1])], [7, 7, 7, 255, 255, 255]);
});

test("components are numbered, measured and dropped by their size", () => {
  const rows = ["##..", "..#.", "...#", "#..."];
  const mask = newMask(4, 4, (i) => rows[Math.floor(i / 4)][i % 4] === "#");
  assert.deepEqual(label(mask).area, [0, 4, 1]);
  assert.deepEqual(label(mask, false).area, [0, 2, 1, 1, 1]);
  assert.equal(dropSmall(mask, 2).data.reduce((n, each) => n + each), 4);
  assert.deepEqual([...touchedCells(mask, [1, 1], 2, [2, 2]).data], [1, 1, 1, 1]);
});

/* An overview at 8 um with a pink square on glass. */
function overview(color, [left, top, side]) {
  const [width, height] = [80, 60];
  const pixels = new Uint8ClampedArray(width * height * 3);
  for (let i = 0; i < width * height; i++) {
    const [x, y] = [i % width, Math.floor(i / width)];
    const isIn = x >= left && y >= top && x < left + side && y < top + side;
    pixels.set(isIn ? color : [244, 243, 245], 3 * i);
  }
  return { pixels, width, height, mpp: [8, 8] };
}

test("stained areas are tissue; grey ones, pen strokes and specks are not", () => {
  const count = (...of) => findTissue(overview(...of)).data.reduce((n, each) => n + each);
  assert.equal(count([200, 120, 170], [20, 20, 20]), 400);
  assert.equal(count([120, 120, 120], [20, 20, 20]), 0);
  assert.equal(count([30, 60, 200], [20, 20, 20]), 0);
  assert.equal(count([200, 120, 170], [20, 20, 3]), 0);
  assert.deepEqual(estimateGlass(overview([200, 120, 170], [20, 20, 20])), [244, 243, 245]);
});

test("fields are drawn in NumPy's order", () => {
  // np.random.default_rng(0).permutation(10)
  assert.deepEqual(permutation(10), [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]);
});

test("stains are found again in pixels that were mixed from them", () => {
  const stains = [[0.65, 0.7, 0.29], [0.1, 0.95, 0.25]].map((v) => v.map((x) => x / Math.hypot(...v)));
  const pixels = Uint8Array.from({ length: 60000 }, (_, k) => {
    const i = Math.floor(k / 3);
    const [h, e] = i % 10 ? [(i * 7919) % 100, (i * 104729) % 100] : [(i / 10) % 2 * 90, (1 - (i / 10) % 2) * 90];
    return 256 * Math.exp(-(h * stains[0][k % 3] + e * stains[1][k % 3]) / 60) - 1;
  });
  const fit = fitMacenko(pixels);
  fit.stains.forEach((stain, i) => stain.forEach((value, k) => near(value, stains[i][k], 0.02)));
  const reference = { method: "macenko", share: 1, ...fit };
  colourOf(reference, fit).forEach((value, k) => near(value, IDENTITY[k], 1e-5));
  assert.equal(colourOf(reference, null), IDENTITY);
  assert.equal(fitMacenko(new Uint8Array(30000).fill(250)), null);
});

test("linear algebra", () => {
  const [first, , last] = eigenvectors([[2, 1, 0], [1, 2, 0], [0, 0, 0.5]]);
  near(Math.abs(first[0] + first[1]), Math.SQRT2, 1e-9);
  near(Math.abs(last[2]), 1, 1e-9);
  invert3([[2, 0, 0], [0, 4, 0], [1, 0, 1]]).flat().forEach((value, k) =>
    near(value, [0.5, 0, 0, 0, 0.25, 0, -0.5, 0, 1][k], 1e-12));
  near(percentile([1, 2, 3, 5], 50), 2.5, 1e-12);
});

const MODELS = new URL("../../muse_pipeline/inference/built_in/", import.meta.url);

test("the card of a model is read from its metadata", () => {
  const card = readCard(new Uint8Array(readFileSync(new URL("compact-int8.onnx", MODELS))), "compact");
  assert.deepEqual([card.name, card.mpp, card.n_rays, card.classes.length], ["compact", 0.5, 32, 3]);
  assert.match(readMetadata(new Uint8Array(readFileSync(new URL("outlines/refine.onnx", MODELS)))).licence, /Apache/);
});

test("a file that is not a detector is refused with a sentence", () => {
  const refine = new Uint8Array(readFileSync(new URL("outlines/refine.onnx", MODELS)));
  assert.throws(() => readCard(refine, "refine.onnx"), /refine.onnx: has no card; drop the ONNX file/);
  assert.throws(() => readCard(new Uint8Array([255, 1, 2]), "a.onnx"), /a.onnx: has no card/);
  const artefacts = new Uint8Array(readFileSync(new URL("regions/artefacts.onnx", MODELS)));
  assert.throws(() => readCard(artefacts, "artefacts.onnx"), /kind 'regions'/);
});

/* A run of `n` equal nuclei of the first class. */
function runOf(n, radius, probability = 0.9) {
  const card = {
    mpp: 0.5, classes: [{ name: "A, or \"B\"", color: [1, 2, 3] }, { name: "C", color: [4, 5, 6] }],
    nuclei: { "A, or \"B\"": { median_area_um2: [20, 24, 28], mean_class_probability: [0.8, 0.9, 0.94] } },
    organs: { "A, or \"B\"": ["breast"], C: [] },
  };
  const nuclei = {
    n, nRays: 32, rays: new Float32Array(32 * n).fill(radius), score: new Float32Array(n).fill(0.75),
    xy: Float64Array.from({ length: 2 * n }, (_, k) => 20 + (k % 2 ? 0 : 10 * k)),
    prob: Float32Array.from({ length: 2 * n }, (_, k) => (k % 2 ? 1 - probability : probability)),
  };
  return { nuclei, card, found: { areaMm2: 0.5, hasStains: true } };
}
const INFO = { mpp: [0.25, 0.25], size: [100000, 100000], source: "scanner" };

test("GeoJSON has a closed outline per nucleus, and CSV a row", () => {
  const { features } = JSON.parse(toGeoJson(runOf(3, 4), INFO));
  assert.equal(features.length, 3);
  const [points] = features[1].geometry.coordinates;
  assert.deepEqual([points.length, points[0]], [33, [176, 80]]);
  assert.deepEqual(points[32], points[0]);
  assert.equal(features[0].properties.measurements["Detection probability"], 0.75);
  const rows = toCsv(runOf(3, 4), INFO).trim().split("\n");
  assert.match(rows[0], /^x,y,class,score,"prob_A, or ""B""",prob_C,area_um2/);
  assert.match(rows[2], /^160.00,80.00,"A, or ""B""",0.7500,0.9000,0.1000,49.9/);
});

test("doubts are stated as by muse run", () => {
  assert.deepEqual(findDoubts(runOf(500, 2.8), INFO, "breast"), ["The accuracy of C was not measured in breast."]);
  assert.deepEqual(findDoubts(runOf(500, 2.8), INFO, ""), []);
  assert.match(findDoubts(runOf(500, 2.8), INFO, "this organ")[0], /The accuracy of the classes was not measured in this organ/);
  assert.match(findDoubts(runOf(500, 8), INFO, "")[0], /too large for it/);
  assert.match(findDoubts(runOf(500, 3.5), INFO, "").join(), /class "A, or "B"" are too large/);
  assert.deepEqual(findDoubts(runOf(50, 8), INFO, ""), []);
  assert.match(findDoubts(runOf(50, 3), { ...INFO, mpp: [0.9, 0.9] }, "")[0], /is enlarged/);
});
