/* Reads any rectangle of a slide at any um per pixel, as `store/resample.py` does: pixels are
   area-weighted means of the pixels that they cover, or interpolated if the slide is enlarged. */

const ALIGNED = 1e-3; // level px; positions closer than this to an edge count as on it
const MAX_COARSER = 1.05;
export const WHITE = 255;

export const workSize = ({ size, mpp }, work) =>
  size.map((n, i) => Math.ceil((n * mpp[i]) / work - 1e-6));

/* The coarsest level that is at least as fine as `mpp`, or level 0. */
export function chooseLevel(slide, mpp) {
  const isFine = ({ downsample }) =>
    Math.max(...downsample.map((d, i) => d * slide.mpp[i])) <= mpp * 1.001;
  return slide.levels.reduce((best, level, k) => (isFine(level) ? k : best), 0);
}

/* `n` work pixels of an axis from `start` on, and the level pixels that they cover. */
export function stretchOf(ratio, levelPx, start, n) {
  const enlarges = ratio * MAX_COARSER < 1 - ALIGNED;
  const first = Math.floor(start * ratio + ALIGNED) - enlarges;
  const last = Math.ceil((start + n) * ratio - ALIGNED) + enlarges;
  const from = Math.max(first, 0);
  return { ratio, levelPx, start, n, from, count: Math.min(last, levelPx) - from, enlarges };
}

/* For each work pixel of a stretch, a level pixel and the weights of those from it on. */
export function weigh({ ratio, levelPx, start, n, from, count, enlarges }) {
  const width = enlarges ? 2 : Math.ceil(ratio) + 1;
  const column = new Int32Array(n);
  const share = new Float32Array(n * width);
  for (let k = 0; k < n; k++) {
    const [low, high] = [(start + k) * ratio, (start + k + 1) * ratio];
    const centre = (low + high) / 2 - 0.5;
    column[k] = enlarges ? Math.floor(centre) : Math.floor(low);
    let total = 0;
    for (let j = 0; j < width; j++) {
      const at = column[k] + j;
      let part = Math.max(Math.min(high, at + 1) - Math.max(low, at), 0);
      if (enlarges) part = low >= levelPx - ALIGNED ? 0 : 1 - Math.abs(centre - at);
      // The nearest pixel takes the weight of one that lies beyond the edge.
      const to = enlarges ? Math.min(Math.max(at, 0), levelPx - 1) - column[k] : j;
      if (column[k] + to < from || column[k] + to >= from + count || part <= 0) continue;
      share[k * width + Math.min(Math.max(to, 0), width - 1)] += part;
      total += part;
    }
    for (let j = 0; j < width; j++) share[k * width + j] /= total > ALIGNED ? total : Infinity;
  }
  return { column, share, width };
}

/* Means of `pixels`, RGB of the level under two stretches, in each work pixel; white beyond it. */
export function reduce(pixels, across, down) {
  const result = new Uint8ClampedArray(across.n * down.n * 3).fill(WHITE);
  const [x, y, row] = [weigh(across), weigh(down), new Float32Array(across.count * 3)];
  // OpenCV rounds means of whole blocks, other than of 2 x 2, to even, as this array does.
  const isEven = [across, down].every(({ ratio }) => Number.isInteger(ratio)) && across.ratio !== 2;
  for (let k = 0; k < down.n; k++) {
    row.fill(0);
    for (let j = k * y.width; j < (k + 1) * y.width; j++) {
      const share = y.share[j];
      const source = (y.column[k] + j - k * y.width - down.from) * row.length;
      if (share > 0) for (let i = 0; i < row.length; i++) row[i] += share * pixels[source + i];
    }
    if (!y.share.subarray(k * y.width, (k + 1) * y.width).some((share) => share > 0)) continue;
    for (let c = 0, to = k * across.n * 3; c < across.n; c++) {
      for (let channel = 0; channel < 3; channel++, to++) {
        let [sum, total] = [0, 0];
        for (let j = 0; j < x.width; j++) {
          const share = x.share[c * x.width + j];
          if (share > 0) sum += share * row[(x.column[c] + j - across.from) * 3 + channel];
          total += share;
        }
        if (total > 0) result[to] = isEven ? sum : Math.floor(sum + 0.5);
      }
    }
  }
  return result;
}

/* RGB of [width, height] work pixels at [x, y] of a slide at `mpp`, from one of its levels. */
export async function readArea(slide, level, mpp, [x, y], [width, height]) {
  const { size, downsample } = slide.levels[level];
  const [across, down] = [[x, width], [y, height]].map(([start, n], i) => {
    const ratio = mpp / (slide.mpp[i] * downsample[i]);
    // A scale that is whole over the length of the axis is exactly whole.
    const drift = Math.abs(ratio - Math.round(ratio)) * (size[i] / ratio);
    return stretchOf(drift < ALIGNED ? Math.round(ratio) : ratio, size[i], start, n);
  });
  if (across.count <= 0 || down.count <= 0) {
    return new Uint8ClampedArray(width * height * 3).fill(WHITE);
  }
  const box = [across.from, down.from, across.count, down.count];
  return reduce(await slide.read(level, ...box), across, down);
}
