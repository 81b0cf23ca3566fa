/* The tissue of a slide at about 8 um per pixel, as in `tissue/find.py`: stained areas that are
   neither pen nor specks. Parts that were not scanned and damaged parts are not looked for. */

import {
  containing, disc, dropSmall, ellipse, grow, invert, mapMask, newMask, pad, shrink,
} from "./mask.js";
import { reduce, stretchOf } from "./resample.js";

export const SIDE_UM = 8;
const MIN_GLASS = 195;
const KINDS = [[10, 0.02], [35, 0.2]]; // (difference between channels, share of the picture)
const DEFAULT_GLASS = 243;

/* The coarsest level that is fine enough for `target` um, and the um of whole blocks of it. */
export function blocksNear(slide, target) {
  const fit = ({ downsample }) =>
    Math.max(...downsample.map((d, i) => d * slide.mpp[i])) <= target * 1.25;
  const level = slide.levels.reduce((best, each, k) => (fit(each) ? k : best), 0);
  const own = slide.levels[level].downsample.map((d, i) => d * slide.mpp[i]);
  const factors = own.map((side) => Math.max(Math.round(target / side), 1));
  return { level, factors, mpp: own.map((side, i) => side * factors[i]) };
}

/* The whole slide as a picture {pixels, width, height, mpp}, read in strips; its edges repeat. */
export async function readOverview(slide) {
  const { level, factors, mpp } = blocksNear(slide, SIDE_UM);
  const { size } = slide.levels[level];
  const [width, height] = size.map((n, i) => Math.ceil(n / factors[i]));
  const pixels = new Uint8ClampedArray(width * height * 3);
  const step = Math.max(Math.floor(1024 / factors[1]), 1);
  for (let y = 0; y < height; y += step) {
    const [top, rows] = [y * factors[1], Math.min(step, height - y)];
    const count = Math.min(rows * factors[1], size[1] - top);
    const raw = await slide.read(level, 0, top, size[0], count);
    const [wide, high] = [width * factors[0], rows * factors[1]];
    const whole = new Uint8ClampedArray(wide * high * 3);
    for (let row = 0; row < high; row++) {
      const from = Math.min(row, count - 1) * size[0] * 3;
      whole.set(raw.subarray(from, from + size[0] * 3), row * wide * 3);
      const last = raw.subarray(from + size[0] * 3 - 3, from + size[0] * 3);
      for (let x = size[0]; x < wide; x++) whole.set(last, (row * wide + x) * 3);
    }
    const stretches = [[width, 0], [rows, 1]].map(([n, i]) => stretchOf(factors[i], n * factors[i], 0, n));
    pixels.set(reduce(whole, ...stretches), y * width * 3);
  }
  return { pixels, width, height, mpp };
}

export const lowest = (p, i) => Math.min(p[3 * i], p[3 * i + 1], p[3 * i + 2]);
export const highest = (p, i) => Math.max(p[3 * i], p[3 * i + 1], p[3 * i + 2]);

/* Standard deviation of the green of the 3 x 3 neighbours of a pixel, mirrored at the edges. */
function roughness({ pixels, width, height }, i) {
  const [x, y] = [i % width, Math.floor(i / width)];
  const fold = (at, n) => (n < 2 ? 0 : at < 0 ? -at : at >= n ? 2 * n - 2 - at : at);
  let [sum, squares] = [0, 0];
  for (let dy = -1; dy <= 1; dy++) {
    for (let dx = -1; dx <= 1; dx++) {
      const value = pixels[3 * (fold(y + dy, height) * width + fold(x + dx, width)) + 1];
      sum += value;
      squares += value * value;
    }
  }
  return Math.sqrt(Math.max(squares / 9 - (sum / 9) ** 2, 0));
}

/* Colour of glass: the brightest frequent colour of pale and flat areas. */
export function estimateGlass(picture) {
  const { pixels, width, height } = picture;
  const n = width * height;
  const candidates = [];
  let scanned = 0;
  for (let i = 0; i < n; i++) {
    const low = lowest(pixels, i);
    if (low < 255) scanned++;
    if (low >= MIN_GLASS && low < 255 && roughness(picture, i) < 1.5) candidates.push(i);
  }
  for (const [maxTint, share] of KINDS) {
    const chosen = candidates.filter((i) => highest(pixels, i) - lowest(pixels, i) <= maxTint);
    if (chosen.length < Math.max(share * scanned, 1)) continue;
    const counts = new Array(258).fill(0);
    for (const i of chosen) counts[pixels[3 * i + 1] + 1]++;
    let green = 255;
    while (counts[green] + counts[green + 1] + counts[green + 2] < 0.1 * chosen.length) green--;
    const near = chosen.filter((i) => Math.abs(pixels[3 * i + 1] - green) <= 2);
    return [0, 1, 2].map((c) => {
      const levels = near.map((i) => pixels[3 * i + c]).sort((a, b) => a - b);
      return (levels[(levels.length - 1) >> 1] + levels[levels.length >> 1]) / 2;
    });
  }
  return [DEFAULT_GLASS, DEFAULT_GLASS, DEFAULT_GLASS];
}

/* Optical densities of the channels of an overview relative to glass, as `density[3 * i + c]`. */
function densities(picture) {
  const table = estimateGlass(picture).map((white) =>
    Float32Array.from({ length: 256 }, (_, k) => Math.max(Math.log((white + 1) / (k + 1)), 0)));
  return Float32Array.from(picture.pixels, (level, k) => table[k % 3][level]);
}

function isInk(density, i, maxRed = 0.3) {
  const [red, green, blue] = density.subarray(3 * i, 3 * i + 3);
  const [low, high] = [Math.min(red, green, blue), Math.max(red, green, blue)];
  return (red > 0.25 && green < 0.8 * red && green < 1.1 * blue)
    || (red > 0.25 && red > 1.4 * green && blue < green)
    || (green > 0.8 && blue > 0.85 * green && red < maxRed * green)
    || (low > 0.9 && high - low < 0.35 * high);
}

function findPen(density, { width, height, mpp }) {
  const shape = ellipse(mpp.map((side) => Math.max(Math.round(20 / side), 1)));
  const ink = newMask(width, height, (i) => isInk(density, i));
  const isCertain = (i) => highest(density, i) > 0.6 && isInk(density, i, 0.15);
  return grow(containing(grow(shrink(ink, shape), shape), isCertain), disc(80, mpp));
}

function findStained(density, { pixels, width, height }) {
  const spread = (i) => highest(density, i) - lowest(density, i);
  const faint = newMask(width, height, (i) => spread(i) > 0.03 && highest(pixels, i) >= 70
    && density[3 * i + 1] > Math.min(density[3 * i], density[3 * i + 2]));
  return containing(faint, (i) => spread(i) > 0.09);
}

/* Join nearly touching areas, drop specks and fill holes. */
function tidy(mask, mpp) {
  const pixel = mpp[0] * mpp[1];
  const least = Math.min(5000, 0.02 * mask.data.length * pixel) / pixel;
  const radius = mpp.map((side) => Math.max(Math.round(16 / side), 1));
  const shape = ellipse(radius);
  const closed = pad(shrink(grow(pad(mask, ...radius), shape), shape), -radius[0], -radius[1]);
  return invert(dropSmall(invert(dropSmall(closed, least)), 30000 / pixel, false, true));
}

/* The tissue of an overview. */
export function findTissue(picture) {
  const density = densities(picture);
  const pen = findPen(density, picture);
  const stained = mapMask(findStained(density, picture), (value, i) => value && !pen.data[i]);
  return mapMask(tidy(stained, picture.mpp), (value, i) => value && !pen.data[i]);
}

/* True if more than half of an overview is black and the rest is dark too. */
export function isFluorescence({ pixels, width, height }) {
  const sums = [];
  for (let i = 0; i < width * height; i++) {
    if (highest(pixels, i) >= 35) sums.push(pixels[3 * i] + pixels[3 * i + 1] + pixels[3 * i + 2]);
  }
  sums.sort((a, b) => a - b);
  return sums.length < (width * height) / 2 && (sums[sums.length >> 1] ?? 0) < 300;
}
