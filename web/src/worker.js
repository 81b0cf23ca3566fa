/* Runs in a worker: reads the slide, finds tissue and stains, and finds nuclei window by window. */

import { continueAxis, Grid } from "./grid.js";
import { disc, grow, mapMask, touchedCells } from "./mask.js";
import { Model } from "./model.js";
import { clipRays, refineOutlines } from "./outlines.js";
import { cutApart, isReported, mergeSeams, suppressOverlaps } from "./pairs.js";
import { chooseLevel, readArea, WHITE, workSize } from "./resample.js";
import { openSlide } from "./slide.js";
import { colourOf, fitMacenko, samplePixels } from "./stain.js";
import { findTissue, isFluorescence, readOverview, SIDE_UM } from "./tissue.js";

const CHUNK_PX = 512; // squares without tissue near them are white, as in the store of `muse run`
const KEEP_UM = 16; // nuclei this close to tissue are kept
const MARGIN_UM = 32;
let slide, model, survey, grid, overview, fingerprint;

const pick = (values, width, index) => {
  const chosen = new values.constructor(index.length * width);
  index.forEach((i, k) => chosen.set(values.subarray(i * width, (i + 1) * width), k * width));
  return chosen;
};

/* The nuclei with these indices. */
function take(nuclei, index) {
  const { n, nRays, xy, rays, score, prob, window } = nuclei;
  const width = n ? prob.length / n : 0;
  return {
    n: index.length, nRays,
    xy: pick(xy, 2, index), rays: pick(rays, nRays, index), score: pick(score, 1, index),
    prob: pick(prob, width, index), ...(window && { window: pick(window, 1, index) }),
  };
}

const indices = (n, find) => Array.from({ length: n }, (_, i) => i).filter(find);

const calls = {
  async open({ file }) {
    slide = await openSlide(file);
    fingerprint = await digest(file);
    overview = undefined;
    const { size, mpp, source } = slide;
    return { size, mpp, source, fingerprint };
  },

  scale({ mpp }) {
    slide.mpp = mpp;
    overview = undefined;
  },

  /* RGBA of a square of `side` pixels, each `factor` pixels of level 0. */
  async tile({ column, row, side, factor }) {
    const mpp = slide.mpp[0] * factor;
    const level = chooseLevel(slide, mpp);
    const corner = [column * side, row * side];
    const size = slide.size.map((n, i) => Math.min(side, Math.ceil(n / factor) - corner[i]));
    const rgb = await readArea(slide, level, mpp, corner, size);
    const rgba = new Uint8ClampedArray(size[0] * size[1] * 4).fill(255);
    for (let i = 0, k = 0; k < rgba.length; i += 3, k += 4) rgba.set(rgb.subarray(i, i + 3), k);
    return createImageBitmap(new ImageData(rgba, ...size));
  },

  /* Tissue and colour in a box of level-0 pixels [left, top, right, bottom]. */
  async survey({ box, card }) {
    overview ??= await readOverview(slide);
    if (isFluorescence(overview)) {
      throw new Error("The slide is dark, as in fluorescence; this page finds nuclei in H&E only.");
    }
    const um = box.map((px, k) => px * slide.mpp[k & 1]);
    const { mpp } = overview;
    const mask = mapMask(findTissue(overview), (value, i) => {
      const at = [i % overview.width, Math.floor(i / overview.width)];
      return value && at.every((n, k) => (n + 1) * mpp[k] > um[k] && n * mpp[k] < um[k + 2]);
    });
    const fit = fitMacenko(await samplePixels(slide, mask, mpp));
    // The last column and row of the mask count in part, as far as they lie on the slide.
    const part = (at, k) => Math.min((slide.size[k] * slide.mpp[k]) / mpp[k] - at, 1);
    const pixels = mask.data.reduce((sum, value, i) => (value
      ? sum + part(i % mask.width, 0) * part(Math.floor(i / mask.width), 1) : sum), 0);
    return {
      box, mask, mpp, hasStains: Boolean(fit), colour: colourOf(card.colour, fit),
      areaMm2: (pixels * mpp[0] * mpp[1]) / 1e6,
    };
  },

  async load(files) {
    model = await Model.open(files);
  },

  tryGpu: (files) => model.tryGpu(files),

  /* Prepare for windows; returns the numbers of those with tissue. */
  prepare({ found }) {
    const { card } = model;
    const size = workSize(slide, card.mpp);
    grid = new Grid(size, card);
    const cells = (um, side) => touchedCells(grow(found.mask, disc(um, found.mpp)), found.mpp,
      side * card.mpp, size.map((n) => Math.ceil(n / side)));
    const side = Math.max(1, Math.round(SIDE_UM / card.mpp));
    survey = { ...found, side, kept: cells(KEEP_UM, side), chunks: cells(MARGIN_UM, CHUNK_PX) };
    return indices(grid.rows * grid.columns, (k) => grid.part(k, survey.kept, side));
  },

  /* The nuclei that a window reports, with positions in work px. */
  async window({ number }) {
    const { card } = model;
    const part = grid.part(number, survey.kept, survey.side);
    const window = await readWindow(part);
    let nuclei = await model.find(window, survey.colour);
    const inPicture = (x, y) => x >= 0 && y >= 0 && x < grid.size[0] && y < grid.size[1];
    const at = (i, axis) => nuclei.xy[2 * i + axis] + part.xy[axis];
    nuclei = take(nuclei, indices(nuclei.n, (i) => inPicture(at(i, 0), at(i, 1))));
    if (model.refiner) {
      const run = (density, rays) => model.change(density, rays);
      nuclei.rays = await refineOutlines(run, window, nuclei, card.mpp);
    }
    const inUm = { ...nuclei, xy: nuclei.xy.map((px) => px * card.mpp) };
    nuclei = take(nuclei, suppressOverlaps(inUm));
    nuclei.xy = nuclei.xy.map((_, k) => at(k >> 1, k & 1));
    return take(nuclei, indices(nuclei.n, (i) =>
      isReported(grid, card.mpp, number, nuclei.xy[2 * i], nuclei.xy[2 * i + 1])));
  },

  /* The nuclei of the slide, in um, from the reports of all windows. */
  finish({ reports, windows }) {
    const { mpp } = model.card;
    const join = (name) => {
      const parts = reports.map((report) => report[name]);
      const all = new parts[0].constructor(parts.reduce((n, part) => n + part.length, 0));
      parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
      return all;
    };
    const window = Int32Array.from(reports.flatMap(({ n }, k) => new Array(n).fill(windows[k])));
    let nuclei = { n: window.length, nRays: reports[0].nRays, window };
    for (const name of ["xy", "rays", "score", "prob"]) nuclei[name] = join(name);
    nuclei = take(nuclei, mergeSeams(grid, mpp, nuclei.xy, nuclei.window));
    nuclei.xy = nuclei.xy.map((px) => px * mpp);
    const kept = grow(survey.mask, disc(KEEP_UM, survey.mpp));
    const end = slide.size.map((n, i) => n * slide.mpp[i]);
    const box = survey.box.map((px, k) => px * slide.mpp[k & 1]);
    nuclei = take(nuclei, indices(nuclei.n, (i) => {
      const xy = nuclei.xy.subarray(2 * i, 2 * i + 2);
      if (xy.some((um, k) => um >= end[k] || um < box[k] || um > box[k + 2])) return false;
      const [column, row] = xy.map((um, k) => Math.floor(um / survey.mpp[k]));
      return kept.data[Math.min(row, kept.height - 1) * kept.width + Math.min(column, kept.width - 1)];
    }));
    clipRays(nuclei, end);
    return { ...nuclei, rays: cutApart(nuclei) };
  },
};

/* Pixels of a part of a window as planes; beyond the edges of the slide, its edge repeats. */
async function readWindow({ xy, size }) {
  const [columns, rows] = [0, 1].map((i) => continueAxis(xy[i], size[i], grid.size[i]));
  const [left, top] = [Math.min(...columns), Math.min(...rows)];
  const [width, height] = [Math.max(...columns) + 1 - left, Math.max(...rows) + 1 - top];
  const rgb = await readStored(left, top, width, height);
  const plane = size[0] * size[1];
  const pixels = new Uint8Array(3 * plane);
  rows.forEach((row, y) => columns.forEach((column, x) => {
    const from = ((row - top) * width + column - left) * 3;
    const to = y * size[0] + x;
    pixels[to] = rgb[from];
    pixels[plane + to] = rgb[from + 1];
    pixels[2 * plane + to] = rgb[from + 2];
  }));
  return { pixels, width: size[0], height: size[1] };
}

async function readStored(left, top, width, height) {
  const { mpp } = model.card;
  const level = chooseLevel(slide, mpp);
  const result = new Uint8ClampedArray(width * height * 3).fill(WHITE);
  for (let row = Math.floor(top / CHUNK_PX); row * CHUNK_PX < top + height; row++) {
    for (let column = Math.floor(left / CHUNK_PX); column * CHUNK_PX < left + width; column++) {
      if (!survey.chunks.data[row * survey.chunks.width + column]) continue;
      const corner = [Math.max(column * CHUNK_PX, left), Math.max(row * CHUNK_PX, top)];
      const size = [
        Math.min((column + 1) * CHUNK_PX, left + width) - corner[0],
        Math.min((row + 1) * CHUNK_PX, top + height) - corner[1],
      ];
      const rgb = await readArea(slide, level, mpp, corner, size);
      for (let y = 0; y < size[1]; y++) {
        const at = ((corner[1] - top + y) * width + corner[0] - left) * 3;
        result.set(rgb.subarray(y * size[0] * 3, (y + 1) * size[0] * 3), at);
      }
    }
  }
  return result;
}

const MIB = 1 << 20;

/* SHA-256 (hex) of a file's size and parts, as in `slides/signature.py`. */
async function digest(file) {
  const size = new Uint8Array(new BigUint64Array([BigInt(file.size)]).buffer).reverse();
  const starts = [0, Math.floor((file.size - MIB) / 2), file.size - MIB];
  const parts = file.size > 3 * MIB ? starts.map((at) => file.slice(at, at + MIB)) : [file];
  const bytes = await new Blob([size, ...parts]).arrayBuffer();
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function answer({ id, name, args }) {
  try {
    const value = await calls[name](args);
    self.postMessage({ id, value }, value instanceof ImageBitmap ? [value] : []);
  } catch (error) {
    self.postMessage({ id, error: error.message ?? String(error) });
  }
}

let last = Promise.resolve(); // calls run one after another, in the order in which they arrive
self.onmessage = ({ data }) => (last = last.then(() => answer(data)));
