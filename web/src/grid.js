/* The windows of a slide, as in `store/grid.py`: cores tile the plane, and halos overlap. */

export class Grid {
  constructor(size, { input_px: input, halo_px: halo, stride_px: stride }) {
    Object.assign(this, { size, input, halo, stride, core: input - 2 * halo });
    this.columns = Math.ceil(size[0] / this.core);
    this.rows = Math.ceil(size[1] / this.core);
  }

  coreOf(window) {
    const row = Math.floor(window / this.columns);
    return [(window - row * this.columns) * this.core, row * this.core];
  }

  /* Distance of a position to the nearest edge of a window's core; negative outside it. */
  depth(x, y, window) {
    const [left, top] = this.coreOf(window);
    return Math.min(x - left, y - top, left + this.core - x, top + this.core - y);
  }

  owns(x, y, window) {
    const [left, top] = this.coreOf(window);
    return x >= left && y >= top && x < left + this.core && y < top + this.core;
  }

  /* The smallest part of a window around the tissue in its core, {xy, size}; null without any.
     A pixel of the mask {data, width, height} has a side of `side` work pixels. */
  part(window, mask, side) {
    const core = this.coreOf(window);
    const first = core.map((at) => Math.floor(at / side));
    const last = core.map((at) => Math.ceil((at + this.core) / side));
    const box = [Infinity, Infinity, -1, -1];
    for (let row = first[1]; row < Math.min(last[1], mask.height); row++) {
      for (let column = first[0]; column < Math.min(last[0], mask.width); column++) {
        if (!mask.data[row * mask.width + column]) continue;
        box[0] = Math.min(box[0], column);
        box[1] = Math.min(box[1], row);
        box[2] = Math.max(box[2], column + 1);
        box[3] = Math.max(box[3], row + 1);
      }
    }
    if (box[2] < 0) return null;
    const { halo, stride } = this;
    const within = (value) => Math.min(Math.max(value, halo), halo + this.core);
    const spans = [0, 1].map((i) => {
      const origin = core[i] - halo;
      const low = Math.max(within(box[i] * side - origin) - halo, -origin);
      const high = Math.min(within(box[i + 2] * side - origin) + halo, this.size[i] - origin);
      const [begin, end] = [Math.floor(low / stride), Math.ceil(high / stride)];
      return [origin + begin * stride, (end - begin) * stride];
    });
    return { xy: spans.map(([at]) => at), size: spans.map(([, n]) => n) };
  }
}

const PERIOD = 128; // the strip along an edge of a picture that repeats beyond the edge

/* The pixels of an axis of length `side` that are shown from `start` on, also beyond its ends. */
export function continueAxis(start, n, side) {
  const period = Math.min(PERIOD, side);
  return Int32Array.from({ length: n }, (_, k) => {
    const at = start + k;
    if (at < 0) return ((at % period) + period) % period;
    return at < side ? at : side - period + ((at - side) % period);
  });
}
