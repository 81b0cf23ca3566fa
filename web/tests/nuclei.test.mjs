/* Outlines, windows and pairs of nuclei. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { continueAxis, Grid } from "../src/grid.js";
import { clipRays, measureShape, outlineInPixels, resampleAngles } from "../src/outlines.js";
import { areaOf, closePairs, cutApart, mergeSeams, ringOf, sharedArea, suppressOverlaps } from "../src/pairs.js";

const N_RAYS = 32;

/* Round nuclei from [x, y, radius] in um. */
function circles(...of) {
  const rays = Float32Array.from(of.flatMap(([, , radius]) => new Array(N_RAYS).fill(radius)));
  return { n: of.length, nRays: N_RAYS, xy: Float64Array.from(of.flatMap(([x, y]) => [x, y])), rays };
}
const near = (value, expected, tolerance) => assert.ok(Math.abs(value - expected) <= tolerance, `${value} is not ${expected}`);
const lens = (r, d) => 2 * r * r * Math.acos(d / (2 * r)) - (d / 2) * Math.sqrt(4 * r * r - d * d);

test("the area that two outlines share is that of their lens", () => {
  for (const distance of [1, 3, 5, 7]) {
    near(sharedArea(circles([10, 10, 4], [10 + 0.8 * distance, 10 + 0.6 * distance, 4]), 0, 1), lens(4, distance), 0.5);
  }
  near(sharedArea(circles([10, 10, 4], [20, 10, 4]), 0, 1), 0, 0);
  near(sharedArea(circles([10, 10, 4], [10.3, 10.1, 2]), 0, 1), areaOf(ringOf(circles([0, 0, 2]), 0)), 1e-9);
});

test("the better of two outlines that overlap much is kept, and both that overlap little", () => {
  assert.deepEqual(suppressOverlaps(circles([10, 10, 4], [12, 10, 4], [16, 10, 4])), [0, 2]);
});

test("close pairs are those of all positions", () => {
  const xy = Float64Array.from({ length: 400 }, (_, k) => (k * 7919) % 101);
  const found = new Set(closePairs(xy, 6).map(([i, k]) => `${i} ${k}`));
  for (let k = 0; k < 200; k++) {
    for (let i = 0; i < k; i++) {
      const isNear = Math.hypot(xy[2 * i] - xy[2 * k], xy[2 * i + 1] - xy[2 * k + 1]) <= 6;
      assert.equal(found.has(`${i} ${k}`), isNear);
    }
  }
});

test("two nuclei that overlap are cut apart, and others are left alone", () => {
  const nuclei = circles([10, 10, 4], [15, 11, 3], [40, 10, 4]);
  const cut = { ...nuclei, rays: cutApart(nuclei) };
  assert.ok(sharedArea(nuclei, 0, 1) > 1);
  near(sharedArea(cut, 0, 1), 0, 0.1);
  near(areaOf(ringOf(cut, 0)) + areaOf(ringOf(cut, 1)) + sharedArea(nuclei, 0, 1), areaOf(ringOf(nuclei, 0)) + areaOf(ringOf(nuclei, 1)), 1.5);
  assert.deepEqual(cut.rays.slice(2 * N_RAYS), nuclei.rays.slice(2 * N_RAYS));
});

const CARD = { input_px: 1024, halo_px: 32, stride_px: 32 };

test("a nucleus at a seam that two windows report is kept once", () => {
  const grid = new Grid([1920, 960], CARD);
  const xy = Float64Array.of(959, 100, 961.5, 100, 500, 500, 966, 300, 958, 700);
  const window = Int32Array.of(0, 1, 0, 0, 0);
  assert.deepEqual(mergeSeams(grid, 0.5, xy, window), [1, 2, 4]);
});

test("cores tile the slide, and parts of windows hold the tissue with its halo", () => {
  const grid = new Grid([2000, 1000], CARD);
  assert.deepEqual([grid.columns, grid.rows], [3, 2]);
  const mask = { data: new Uint8Array(125 * 63), width: 125, height: 63 };
  mask.data[10 * 125 + 70] = 1; // 16 px from (1120, 160)
  assert.equal(grid.part(0, mask, 16), null);
  assert.deepEqual(grid.part(1, mask, 16), { xy: [1088, 128], size: [96, 96] });
});

test("beyond an edge the strip next to it repeats", () => {
  assert.deepEqual([...continueAxis(-2, 4, 300)], [126, 127, 0, 1]);
  assert.deepEqual([...continueAxis(298, 4, 300)], [298, 299, 172, 173]);
});

test("a circle has the shape of a circle, and an ellipse that of an ellipse", () => {
  const circle = measureShape(ringOf(circles([50, 60, 4]), 0));
  near(circle.area_um2, Math.PI * 16, 0.4);
  near(circle.eccentricity, 0, 1e-5);
  const ring = Float64Array.from({ length: 400 }, (_, k) => {
    const angle = (2 * Math.PI * (k >> 1)) / 200;
    return k % 2 ? 30 + 3 * Math.sin(angle) : 20 + 5 * Math.cos(angle);
  });
  const { major_axis_um: major, minor_axis_um: minor, eccentricity } = measureShape(ring);
  near(major, 10, 0.01);
  near(minor, 6, 0.01);
  near(eccentricity, 0.8, 0.001);
});

test("an outline that rounding breaks becomes a circle, and others keep their ends", () => {
  const nuclei = circles([10, 10, 4], [20, 10, 0.02]);
  const ring = outlineInPixels(nuclei, 0, [0.25, 0.25], [400, 400]);
  assert.deepEqual([ring[0], ring[1], ring.length], [56, 40, 64]);
  near(areaOf(outlineInPixels(nuclei, 1, [0.25, 0.25], [400, 400])), 0.7, 0.15);
});

test("rays end at the edges of the slide", () => {
  const nuclei = circles([2, 10, 4]);
  clipRays(nuclei, [100, 12]);
  const ring = ringOf(nuclei, 0);
  near(Math.min(...ring.filter((_, k) => k % 2 === 0)), 0, 1e-6);
  near(Math.max(...ring.filter((_, k) => k % 2 === 1)), 12, 1e-6);
});

test("values at angles are interpolated around the circle", () => {
  assert.deepEqual([...resampleAngles([0, 4, 8, 4], 0, 4, 8)], [0, 2, 4, 6, 8, 6, 4, 2]);
  assert.deepEqual([...resampleAngles([0, 2, 4, 6, 8, 6, 4, 2], 0, 8, 4)], [0, 4, 8, 4]);
});
