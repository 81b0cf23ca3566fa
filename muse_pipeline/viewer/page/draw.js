/* The canvas over the image: areas, nuclei as dots, heat map or outlines, and corrections.

   While the view only moves or zooms, the front buffer, which is larger than the view, is moved with it. Meanwhile a second
   buffer is drawn in slices of a few milliseconds, so that no frame waits for all nuclei. */
"use strict";

(() => {
  const MARGIN = 0.2; // fraction of the view by which the buffer is larger on each side
  const SLICE_MS = 8;
  const GROUP = 60; // outlines drawn by one stroke of the pen
  const OUTLINES_FROM = 0.55; // screen px per um at which outlines are drawn: a nucleus of 8 um is 4 px wide
  const HEAT_FROM = 0.1;
  const MOST_IN_VIEW = 60; // maximum number of chunks in view; with more, a sample of the nuclei is drawn instead
  const REACH_UM = 20; // largest distance from the centre of a nucleus to its outline
  const HALO = "rgb(255 255 255 / 55%)";
  const RAMP = [[255, 240, 178], [254, 196, 96], [240, 120, 62], [200, 52, 84], [128, 20, 108], [62, 10, 92]];
  let front, back, job, heat;
  let isStale = true;
  let settle = 0;

  muse.startDrawing = (container) => {
    const overlay = document.createElement("div");
    overlay.id = "overlay";
    container.append(overlay);
    [front, back, job] = [newBuffer(overlay), newBuffer(overlay), null];
    clearTimeout(settle);
    muse.events.addEventListener("change", () => {
      heat = undefined;
      invalidate();
    });
    muse.events.addEventListener("chunk", invalidate);
  };

  function newBuffer(overlay) {
    const canvas = document.createElement("canvas");
    overlay.append(canvas);
    return { canvas, view: null };
  }

  function invalidate() {
    isStale = true;
    muse.frame();
  }

  /* Called for every frame of the image. */
  muse.frame = () => {
    if (!muse.isOpen) return;
    const view = muse.view();
    if (front.view) place(view);
    const isExact = front.view && sameView(front.view, view) && !isStale;
    if (!isExact && !job) {
      clearTimeout(settle);
      if (isStale || !covers(front.view, view)) begin(view);
      else settle = setTimeout(() => begin(muse.view()), 60); // drawn again once the view rests
    }
  };

  const sameView = (a, b) => a.scale === b.scale && a.left === b.left && a.top === b.top && a.width === b.width && a.height === b.height;

  const marginOf = (view) => [Math.round(view.width * MARGIN), Math.round(view.height * MARGIN)]; // screen px

  /* True if a buffer drawn for the view `made` can be shown for `view` while that moves. */
  function covers(made, view) {
    if (!made || made.mode !== modeAt(view)) return false;
    const zoom = view.scale / made.scale;
    const [marginX, marginY] = marginOf(made).map((px) => px / made.scale);
    return (
      zoom > 0.7 && zoom < 1.8 &&
      view.left >= made.left - marginX && view.left + view.width / view.scale <= made.left + made.width / made.scale + marginX &&
      view.top >= made.top - marginY && view.top + view.height / view.scale <= made.top + made.height / made.scale + marginY
    );
  }

  /* Move the front buffer to where its nuclei lie in a view. */
  function place(view) {
    const zoom = view.scale / front.view.scale;
    const [marginX, marginY] = marginOf(front.view);
    const x = (front.view.left - view.left) * view.scale - marginX * zoom;
    const y = (front.view.top - view.top) * view.scale - marginY * zoom;
    front.canvas.style.transform = `matrix(${zoom}, 0, 0, ${zoom}, ${x}, ${y})`;
  }

  function begin(view) {
    const ratio = window.devicePixelRatio || 1;
    const [marginX, marginY] = marginOf(view);
    const [width, height] = [view.width + 2 * marginX, view.height + 2 * marginY];
    isStale = false;
    view.mode = modeAt(view);
    back.view = view;
    back.canvas.width = Math.round(width * ratio);
    back.canvas.height = Math.round(height * ratio);
    Object.assign(back.canvas.style, { width: `${width}px`, height: `${height}px` });
    const scale = view.scale * ratio;
    const [left, top] = [view.left - marginX / view.scale, view.top - marginY / view.scale];
    const frame = {
      pen: back.canvas.getContext("2d"), scale, ratio, left, top,
      x: (um) => (um - left) * scale,
      y: (um) => (um - top) * scale,
      right: left + width / view.scale,
      bottom: top + height / view.scale,
    };
    job = drawAll(frame, view);
    muse.mode = view.mode;
    muse.events.dispatchEvent(new Event("view"));
    proceed();
  }

  function proceed() {
    const until = performance.now() + SLICE_MS;
    while (job && performance.now() < until) {
      if (job.next().done) {
        [front, back] = [back, front];
        job = null;
        place(muse.view());
        front.canvas.style.visibility = "visible";
        back.canvas.style.visibility = "hidden";
        requestAnimationFrame(muse.frame);
        return;
      }
    }
    if (job) requestAnimationFrame(proceed);
  }

  /* True if everything in the view is drawn. */
  muse.isDrawn = () => {
    const view = muse.view();
    return Boolean(muse.overview) && !job && !isStale && front.view && sameView(front.view, view) && !muse.isLoading();
  };

  function modeAt(view) {
    const { mode } = muse.shown;
    if (mode === "auto") return view.scale >= OUTLINES_FROM ? "outlines" : view.scale >= HEAT_FROM ? "heat map" : "dots";
    if (mode !== "outlines" || chunksInView(view).length <= MOST_IN_VIEW) return mode;
    return "dots";
  }

  const chunksInView = (view) =>
    muse.chunksIn(view.left, view.top, view.left + view.width / view.scale, view.top + view.height / view.scale);

  function* drawAll(frame, view) {
    const withNuclei = muse.shown.nuclei && (muse.overview || view.mode === "outlines");
    const withChunks = withNuclei && view.mode !== "heat map" && (view.mode === "outlines" || chunksInView(view).length <= MOST_IN_VIEW);
    const names = withChunks ? muse.chunksIn(frame.left, frame.top, frame.right, frame.bottom) : [];
    if (withChunks) muse.want(names);
    drawLayers(frame);
    yield;
    frame.pen.globalAlpha = muse.shown.opacity;
    if (withChunks) yield* drawChunks(frame, view, names);
    else if (withNuclei && view.mode === "heat map") drawHeat(frame);
    else if (withNuclei) yield* drawSample(frame);
    frame.pen.globalAlpha = 1;
    if (muse.drawMarks) muse.drawMarks(frame);
  }

  function drawLayers({ pen, x, y, ratio }) {
    const { mpp, layers } = muse.slide;
    for (const layer of layers) {
      if (!muse.shown.layers.has(layer.name)) continue;
      pen.beginPath();
      for (const ring of layer.rings) {
        for (let k = 0; k < ring.length; k += 2) pen[k ? "lineTo" : "moveTo"](x(ring[k] * mpp[0]), y(ring[k + 1] * mpp[1]));
        pen.closePath();
      }
      pen.strokeStyle = layer.color;
      pen.lineWidth = 2 * ratio;
      pen.stroke();
      if (layer.name.startsWith("Region:")) {
        pen.fillStyle = layer.color;
        pen.globalAlpha = 0.15;
        pen.fill("evenodd");
        pen.globalAlpha = 1;
      }
    }
  }

  function* drawChunks(frame, view, names) {
    for (const chunk of names.map(muse.chunk).filter(Boolean)) {
      const members = sortByClass(chunk, frame);
      for (let label = 0; label < members.length; label++) {
        if (!members[label].length) continue;
        if (view.mode === "outlines") yield* drawOutlines(frame, chunk, members[label], muse.colorOf(label));
        else drawDots(frame, chunk, members[label], label);
        yield;
      }
    }
  }

  /* Indices, by class, of the nuclei in a chunk that are shown and near the buffer. */
  function sortByClass(chunk, frame) {
    const least = leastScore();
    const { classes } = muse.shown;
    const members = classes.map(() => []);
    for (let i = 0; i < chunk.n; i++) {
      if (chunk.score[i] < least || !isNear(chunk, i, frame)) continue;
      const label = muse.classOf(chunk, i);
      if (label >= 0 && classes[label]) members[label].push(i);
    }
    return members;
  }

  /* True if a part of a nucleus may be in the buffer. */
  function isNear(chunk, i, frame) {
    const x = chunk.left + chunk.x[i];
    const y = chunk.top + chunk.y[i];
    return x >= frame.left - REACH_UM && x <= frame.right + REACH_UM && y >= frame.top - REACH_UM && y <= frame.bottom + REACH_UM;
  }

  const leastScore = () => muse.shown.bin * 10; // scores have 200 levels, the slider has 20 steps

  function* drawOutlines(frame, chunk, members, color) {
    const { pen, scale, ratio } = frame;
    const radius = 4 * scale;
    const stride = chunk.nRays % 4 ? 1 : radius < 4 * ratio ? chunk.nRays / 8 : radius < 9 * ratio ? chunk.nRays / 16 : 1;
    const step = Math.max(1, Math.floor(stride));
    const cos = [];
    const sin = [];
    for (let k = 0; k < chunk.nRays; k += step) {
      cos.push(Math.cos((2 * Math.PI * k) / chunk.nRays) * scale * chunk.rayScale);
      sin.push(Math.sin((2 * Math.PI * k) / chunk.nRays) * scale * chunk.rayScale);
    }
    const width = Math.min(2.2, Math.max(1.2, radius / 7 / ratio)) * ratio;
    pen.lineJoin = "round";
    const x0 = frame.x(chunk.left);
    const y0 = frame.y(chunk.top);
    for (let first = 0; first < members.length; first += GROUP) {
      pen.beginPath();
      for (const i of members.slice(first, first + GROUP)) {
        const x = x0 + chunk.x[i] * scale;
        const y = y0 + chunk.y[i] * scale;
        let at = i * chunk.nRays;
        pen.moveTo(x + chunk.rays[at] * cos[0], y + chunk.rays[at] * sin[0]);
        for (let k = 1; k < cos.length; k++) {
          at += step;
          pen.lineTo(x + chunk.rays[at] * cos[k], y + chunk.rays[at] * sin[k]);
        }
        pen.closePath();
      }
      if (radius > 5 * ratio) {
        pen.strokeStyle = HALO; // separates the line from dark chromatin
        pen.lineWidth = width + 2 * ratio;
        pen.stroke();
      }
      pen.strokeStyle = color;
      pen.lineWidth = width;
      pen.stroke();
      yield;
    }
  }

  function drawDots({ pen, x, y, scale, ratio }, chunk, members, label) {
    const side = Math.max(1.5 * ratio, 3 * scale);
    pen.fillStyle = muse.colorOf(label);
    const left = x(chunk.left) - side / 2;
    const top = y(chunk.top) - side / 2;
    for (const i of members) pen.fillRect(left + chunk.x[i] * scale, top + chunk.y[i] * scale, side, side);
  }

  function* drawSample({ pen, x, y, scale, ratio }) {
    const { overview, slide } = muse;
    const least = leastScore();
    const size = slide.size_px.map((n, i) => (n * slide.mpp[i]) / 65535);
    const side = Math.max(1.2 * ratio, 6 * scale);
    for (let label = 0; label < muse.shown.classes.length; label++) {
      if (!muse.shown.classes[label]) continue;
      pen.fillStyle = muse.colorOf(label);
      for (let i = 0; i < overview.n; i++) {
        if (Math.min(overview.label[i], slide.classes.length) !== label || overview.score[i] < least) continue;
        pen.fillRect(x(overview.x[i] * size[0]) - side / 2, y(overview.y[i] * size[1]) - side / 2, side, side);
        if (i % 4096 === 0) yield;
      }
    }
  }

  function drawHeat({ pen, x, y, scale }) {
    heat = heat || paintHeat();
    const { columns, rows, cell_um: side } = muse.slide.overview;
    pen.imageSmoothingEnabled = true;
    pen.globalAlpha = 0.75 * muse.shown.opacity;
    pen.drawImage(heat, x(0), y(0), columns * side * scale, rows * side * scale);
  }

  /* Density of the shown nuclei, one pixel per cell; the darkest colour is the 99th percentile of the cells with all nuclei. */
  function paintHeat() {
    const { columns, rows, cell_um: side } = muse.slide.overview;
    const { cells, counts } = muse.overview;
    const nKinds = (muse.slide.classes.length + 1) * 20;
    const shown = [];
    for (let kind = 0; kind < nKinds; kind++) {
      if (muse.shown.classes[Math.floor(kind / 20)] && kind % 20 >= muse.shown.bin) shown.push(kind);
    }
    const all = new Uint32Array(cells.length);
    const now = new Uint32Array(cells.length);
    for (let i = 0; i < cells.length; i++) {
      for (let kind = 0; kind < nKinds; kind++) all[i] += counts[i * nKinds + kind];
      for (const kind of shown) now[i] += counts[i * nKinds + kind];
    }
    const top = Math.max(1, all.slice().sort()[Math.floor(all.length * 0.99)] || 1);
    muse.densest = top / (side / 1000) ** 2;
    const picture = document.createElement("canvas");
    picture.width = columns;
    picture.height = rows;
    const pen = picture.getContext("2d");
    const pixels = pen.createImageData(columns, rows);
    for (let i = 0; i < cells.length; i++) {
      const strength = Math.min(1, now[i] / top);
      pixels.data.set([...rampColor(strength), Math.min(255, strength * 8 * 255)], cells[i] * 4);
    }
    pen.putImageData(pixels, 0, 0);
    return picture;
  }

  function rampColor(strength) {
    const place = strength * (RAMP.length - 1);
    const low = Math.min(Math.floor(place), RAMP.length - 2);
    return RAMP[low].map((part, i) => Math.round(part + (RAMP[low + 1][i] - part) * (place - low)));
  }
})();
