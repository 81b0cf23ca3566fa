/* The stains of a slide by Macenko's method, and the colour matrix of a model's card, as in
   `tissue/stain.py` and `inference/stains.py`. */

import { reduce, stretchOf } from "./resample.js";
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
  const density = new Float64Array(pixels.length);
  const moments = [0, 0, 0].map(() => [0, 0, 0]);
  let n = 0;
  for (let i = 0; i < pixels.length; i += 3) {
    const [red, green, blue] = [DENSITY[pixels[i]], DENSITY[pixels[i + 1]], DENSITY[pixels[i + 2]]];
    if (!isStained(red, green, blue)) continue;
    density[3 * n] = red;
    density[3 * n + 1] = green;
    density[3 * n + 2] = blue;
    for (let a = 0; a < 3; a++) for (let b = 0; b < 3; b++) moments[a][b] += density[3 * n + a] * density[3 * n + b];
    n++;
  }
  if (n < 500) return null;
  const along = (axis) => Float64Array.from({ length: n }, (_, i) =>
    density[3 * i] * axis[0] + density[3 * i + 1] * axis[1] + density[3 * i + 2] * axis[2]);
  const plane = eigenvectors(moments).slice(0, 2)
    .map((axis) => (axis[0] + axis[1] + axis[2] < 0 ? scaled(axis, -1) : axis));
  const [first, second] = plane.map(along);
  const angles = first.map((value, i) => Math.atan2(second[i], value)).sort();
  const stains = [1, 99].map((percent) => percentile(angles, percent))
    .map((angle) => plane[0].map((x, i) => Math.cos(angle) * x + Math.sin(angle) * plane[1][i]))
    .sort((a, b) => b[0] - a[0]);
  if (!arePlausible(...stains)) return null;
  const share = dot(...stains);
  const strong = [0, 1].map((own) => {
    // A row of the pseudo-inverse of two unit vectors.
    const weights = stains[own].map((x, i) => (x - share * stains[1 - own][i]) / (1 - share ** 2));
    return percentile(along(weights).sort(), 99);
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

/* The numbers below `n` in the random order of NumPy's default generator with seed 0: PCG64 (O'Neill,
   2014), whose outputs are used in halves, and Fisher and Yates' shuffle. */
export function permutation(n) {
  const [low64, low128] = [(1n << 64n) - 1n, (1n << 128n) - 1n];
  let state = 35399562948360463058890781895381311971n;
  let halves = [];
  const draw = () => {
    if (halves.length) return halves.pop();
    state = (state * 0x2360ed051fc65da44385df649fccf645n + 87136372517582989555478159403783844777n) & low128;
    const [mixed, turn] = [(state >> 64n) ^ (state & low64), state >> 122n];
    const output = ((mixed >> turn) | (mixed << (64n - turn))) & low64;
    halves = [Number(output >> 32n)];
    return Number(output & 0xffffffffn);
  };
  const order = [...Array(n).keys()];
  for (let i = n - 1; i > 0; i--) {
    const mask = 2 ** (32 - Math.clz32(i)) - 1;
    let k;
    do k = (draw() & mask) >>> 0; while (k > i);
    [order[i], order[k]] = [order[k], order[i]];
  }
  return order;
}

/* Up to about a million pixels of tissue at about 0.5 um, in the fields of `tissue/colour.py`. */
export async function samplePixels(slide, tissue, tissueMpp) {
  const { level, factors, mpp } = blocksNear(slide, 0.5);
  const [own, touched] = [mpp.map((side, i) => side / factors[i]), new Map()];
  let area = 0;
  tissue.data.forEach((value, i) => {
    if (!value) return;
    const at = [i % tissue.width, Math.floor(i / tissue.width)];
    const [x, y] = at.map((n, k) => Math.floor((n * tissueMpp[k]) / FIELD_UM));
    touched.set(x * 1e6 + y, [x, y]);
    area += tissueMpp[0] * tissueMpp[1];
  });
  const fields = [...touched.entries()].sort(([a], [b]) => a - b).map(([, field]) => field);
  const share = Math.min(1, MOST_PIXELS / Math.max(area / (mpp[0] * mpp[1]), 1));
  const drawn = permutation(fields.length).slice(0, Math.ceil(fields.length * share));
  const chosen = new Uint8Array(drawn.length * (Math.ceil(FIELD_UM / mpp[0]) + 1) ** 2 * 3);
  let size = 0;
  for (const field of drawn.sort((a, b) => a - b).map((k) => fields[k])) {
    const first = field.map((n, i) => Math.round((n * FIELD_UM) / own[i]));
    const n = first.map((at, i) => Math.floor(
      Math.min(Math.ceil(FIELD_UM / own[i]), slide.levels[level].size[i] - at) / factors[i]));
    if (Math.min(...n) < 1) continue;
    const raw = await slide.read(level, ...first, ...n.map((px, i) => px * factors[i]));
    const read = reduce(raw, ...n.map((px, i) => stretchOf(factors[i], px * factors[i], 0, px)));
    for (let i = 0; i < n[0] * n[1]; i++) {
      const place = (px, k) => ((first[k] + (px + 0.5) * factors[k]) * own[k]) / tissueMpp[k];
      const [x, y] = [Math.floor(place(i % n[0], 0)), Math.floor(place(Math.floor(i / n[0]), 1))];
      const at = Math.min(y, tissue.height - 1) * tissue.width + Math.min(x, tissue.width - 1);
      if (tissue.data[at] && highest(read, i) > 25 && lowest(read, i) < 250) {
        for (let c = 0; c < 3; c++) chosen[size++] = read[3 * i + c];
      }
    }
  }
  return chosen.subarray(0, size);
}
