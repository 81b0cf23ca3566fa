/* The stains of a slide by Macenko's method, and the colour matrix of a model's card, as in
   `tissue/stain.py` and `inference/stains.py`. */

import { readArea } from "./resample.js";
import { blocksNear, highest, lowest } from "./tissue.js";

const FIELD_UM = 128;
const MOST_PIXELS = 1e6;
export const IDENTITY = Float32Array.of(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0);

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const scaled = (a, factor) => a.map((value) => value * factor);
const unit = (a) => scaled(a, 1 / Math.hypot(...a));
const cross = ([a, b, c], [x, y, z]) => [b * z - c * y, c * x - a * z, a * y - b * x];
const multiply = (a, b) => a.map((row) => b[0].map((_, k) => dot(row, b.map((each) => each[k]))));
const transpose = (a) => a[0].map((_, k) => a.map((row) => row[k]));

export function invert3(rows) {
  const [a, b, c] = rows;
  const columns = [cross(b, c), cross(c, a), cross(a, b)];
  return transpose(columns.map((column) => scaled(column, 1 / dot(a, columns[0]))));
}

/* Value below which a percentage of sorted numbers lies, interpolated as NumPy does. */
export function percentile(sorted, percent) {
  const at = ((sorted.length - 1) * percent) / 100;
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

/* Eigenvectors of a symmetric 3 x 3 matrix, by descending eigenvalue, by Jacobi's rotations. */
export function eigenvectors(matrix) {
  let [a, v] = [matrix, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]];
  for (let sweep = 0; sweep < 20; sweep++) {
    for (const [p, q] of [[0, 1], [0, 2], [1, 2]]) {
      const angle = 0.5 * Math.atan2(2 * a[p][q], a[q][q] - a[p][p]);
      const turn = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
      turn[p][p] = turn[q][q] = Math.cos(angle);
      turn[p][q] = Math.sin(angle);
      turn[q][p] = -turn[p][q];
      a = multiply(transpose(turn), multiply(a, turn));
      v = multiply(v, turn);
    }
  }
  return [0, 1, 2].sort((i, k) => a[k][k] - a[i][i]).map((k) => v.map((row) => row[k]));
}

const DENSITY = Float64Array.from({ length: 256 }, (_, k) => -Math.log((k + 1) / 256));

function isStained(red, green, blue) {
  const size = Math.hypot(red, green, blue);
  return red < 1.3 * green && blue < 1.2 * green && size > 0.3 && size < 6
    && Math.min(red, green, blue) < 0.85 * Math.max(red, green, blue);
}

/* The stains {stains, strong} of RGB pixels; null if they are not haematoxylin and eosin. */
export function fitMacenko(pixels) {
  const density = [];
  for (let i = 0; i < pixels.length; i += 3) {
    const od = [DENSITY[pixels[i]], DENSITY[pixels[i + 1]], DENSITY[pixels[i + 2]]];
    if (isStained(...od)) density.push(od);
  }
  if (density.length < 500) return null;
  const moments = [0, 1, 2].map((i) => [0, 1, 2].map((k) =>
    density.reduce((sum, od) => sum + od[i] * od[k], 0)));
  const plane = eigenvectors(moments).slice(0, 2)
    .map((axis) => (axis[0] + axis[1] + axis[2] < 0 ? scaled(axis, -1) : axis));
  const angles = Float64Array.from(density, (od) => Math.atan2(dot(od, plane[1]), dot(od, plane[0])));
  angles.sort();
  const stains = [1, 99].map((percent) => percentile(angles, percent))
    .map((angle) => plane[0].map((x, i) => Math.cos(angle) * x + Math.sin(angle) * plane[1][i]))
    .sort((a, b) => b[0] - a[0]);
  if (!arePlausible(...stains)) return null;
  const share = dot(...stains);
  const strong = [0, 1].map((own) => {
    const other = stains[1 - own];
    // A row of the pseudo-inverse of two unit vectors.
    const weights = stains[own].map((x, i) => (x - share * other[i]) / (1 - share ** 2));
    return percentile(Float64Array.from(density, (od) => dot(od, weights)).sort(), 99);
  });
  const round = (value) => Math.round(value * 1e6) / 1e6;
  return { stains: stains.map((stain) => stain.map(round)), strong: strong.map(round) };
}

function arePlausible(haematoxylin, eosin) {
  const apart = Math.acos(Math.min(dot(haematoxylin, eosin), 1)) * (180 / Math.PI);
  return apart >= 12
    && Math.min(haematoxylin[0], haematoxylin[1]) > haematoxylin[2] - 0.1
    && eosin[1] > Math.max(eosin[0], eosin[2]) - 0.1
    && Math.min(...haematoxylin, ...eosin) > -0.1;
}

/* The input `colour` of a model's graph, (3, 4), for the stains of a slide. */
export function colourOf(reference, fit) {
  if (reference.method === "identity" || !fit) return IDENTITY;
  const base = ({ stains }) => transpose([...stains, unit(cross(...stains))]);
  const gains = reference.strong.map((strong, i) => strong / fit.strong[i]);
  const target = base(reference).map(([h, e, rest]) => [h * gains[0], e * gains[1], rest]);
  const whole = multiply(target, invert3(base(fit)));
  const [red, , blue] = fit.stains[1];
  if (red > blue && gainRatio(whole, fit.stains) > 18) return IDENTITY;
  const mixed = (value, i, k) => (1 - reference.share) * (i === k) + reference.share * value;
  return Float32Array.from(whole.flatMap((row, i) => [...row.map((v, k) => mixed(v, i, k)), 0]));
}

/* Ratio of the largest to the smallest factor by which a map amplifies mixtures of two stains. */
function gainRatio(map, [first, second]) {
  const a = unit(first);
  const b = unit(second.map((value, i) => value - dot(a, second) * a[i]));
  const [x, y] = [a, b].map((axis) => map.map((row) => dot(row, axis)));
  const [xx, yy, xy] = [dot(x, x), dot(y, y), dot(x, y)];
  const spread = Math.hypot((xx - yy) / 2, xy);
  return Math.sqrt(((xx + yy) / 2 + spread) / Math.max((xx + yy) / 2 - spread, 1e-12));
}

/* Up to about a million pixels of tissue at about 0.5 um, in fields that are spread evenly. */
export async function samplePixels(slide, tissue, tissueMpp) {
  const { level, mpp } = blocksNear(slide, 0.5);
  const fields = new Map();
  let pixels = 0;
  tissue.data.forEach((value, i) => {
    if (!value) return;
    pixels += (tissueMpp[0] * tissueMpp[1]) / (mpp[0] * mpp[1]);
    const at = [i % tissue.width, Math.floor(i / tissue.width)];
    const field = at.map((n, k) => Math.floor((n * tissueMpp[k]) / FIELD_UM));
    fields.set(field.join(), field);
  });
  const all = [...fields.values()];
  const n = Math.ceil(all.length * Math.min(1, MOST_PIXELS / Math.max(pixels, 1)));
  const side = Math.ceil(FIELD_UM / mpp[0]);
  const chosen = [];
  for (let k = 0; k < n; k++) {
    const corner = all[Math.floor((k * all.length) / n)].map((at) => Math.round((at * FIELD_UM) / mpp[0]));
    const read = await readArea(slide, level, mpp[0], corner, [side, side]);
    for (let i = 0; i < side * side; i++) {
      const [x, y] = [i % side, Math.floor(i / side)].map((v, k2) =>
        Math.floor(((corner[k2] + v + 0.5) * mpp[0]) / tissueMpp[k2]));
      const inside = tissue.data[Math.min(y, tissue.height - 1) * tissue.width + Math.min(x, tissue.width - 1)];
      if (inside && highest(read, i) > 25 && lowest(read, i) < 250) {
        chosen.push(read[3 * i], read[3 * i + 1], read[3 * i + 2]);
      }
    }
  }
  return chosen;
}
