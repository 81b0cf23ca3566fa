/* Nuclei in memory. Chunks are scripts that call `muse.receive`; they are loaded when they come into view.
   Positions are in um from the corner of level 0, unless a name says otherwise. */
"use strict";
const muse = {};

(() => {
  const MOST_CHUNKS = 800; // maximum number of chunks in memory, about 150 kB each
  const MOST_LOADING = 6;
  const NO_CLASS = 255;
  const chunks = new Map(); // by name, least recently used first
  const loading = new Set();
  const needed = new Set(); // chunks that `loadAll` waits for, even if they are not in view
  let wanted = [];

  /* Bytes of a text in base64; bytes are returned as they are. */
  muse.decode = (text) => {
    if (typeof text !== "string") return text;
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text); // in browsers since 2025; much faster
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return bytes;
  };

  /* Receive a chunk as columns, from its script. Its name is that of the file: nuclei/COLUMN_ROW. */
  muse.receive = (name, rayScale, text) => {
    const [column, row] = name.split("/")[1].split("_").map(Number);
    const { side_um: side, n_rays: nRays } = muse.slide.chunks;
    const { buffer } = muse.decode(text);
    const n = buffer.byteLength / (11 + nRays);
    const rows = new Uint32Array(buffer, 0, n);
    const shortX = new Uint16Array(buffer, 4 * n, n);
    const shortY = new Uint16Array(buffer, 6 * n, n);
    const x = new Float32Array(n);
    const y = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      x[i] = ((shortX[i] + 0.5) / 65536) * side;
      y[i] = ((shortY[i] + 0.5) / 65536) * side;
    }
    chunks.set(name, {
      n, rows, x, y, rayScale, nRays,
      left: column * side,
      top: row * side,
      label: new Uint8Array(buffer, 8 * n, n),
      score: new Uint8Array(buffer, 9 * n, n),
      sureness: new Uint8Array(buffer, 10 * n, n),
      rays: new Uint8Array(buffer, 11 * n, n * nRays),
    });
    if (chunks.size > MOST_CHUNKS) chunks.delete(chunks.keys().next().value);
  };

  /* Receive the grid of counts and a sample of all nuclei, after the page has started. */
  muse.receiveOverview = (cells, counts, sample) => {
    const bytes = muse.decode(sample).buffer;
    const n = muse.slide.overview.n_sample;
    muse.overview = {
      cells: new Uint32Array(muse.decode(cells).buffer),
      counts: muse.decode(counts),
      n,
      x: new Uint16Array(bytes, 0, n),
      y: new Uint16Array(bytes, 2 * n, n),
      label: new Uint8Array(bytes, 4 * n, n),
      score: new Uint8Array(bytes, 5 * n, n),
    };
    muse.changed();
  };

  /* Names of the chunks that touch a box, nearest to its middle first. */
  muse.chunksIn = (left, top, right, bottom) => {
    const { side_um: side, index } = muse.slide.chunks;
    const found = [];
    for (const [column, row] of index) {
      const name = `nuclei/${column}_${row}`;
      const x = column * side;
      const y = row * side;
      if (x < right && x + side > left && y < bottom && y + side > top) {
        found.push([Math.hypot(x + side / 2 - (left + right) / 2, y + side / 2 - (top + bottom) / 2), name]);
      }
    }
    return found.sort((a, b) => a[0] - b[0]).map(([, name]) => name);
  };

  /* The chunk with this name; undefined until it is loaded. */
  muse.chunk = (name) => {
    const chunk = chunks.get(name);
    if (chunk) {
      chunks.delete(name);
      chunks.set(name, chunk);
    }
    return chunk;
  };

  /* Load the chunks with these names next; those of earlier calls that are not being loaded yet are dropped. */
  muse.want = (names) => {
    wanted = [...new Set([...needed, ...names])].filter((name) => !chunks.has(name) && !loading.has(name));
    loadNext();
  };

  function loadNext() {
    while (wanted.length && loading.size < MOST_LOADING) {
      const name = wanted.shift();
      const script = document.createElement("script");
      loading.add(name);
      script.src = `${name}.js`;
      script.onload = script.onerror = () => {
        loading.delete(name);
        script.remove();
        muse.events.dispatchEvent(new CustomEvent("chunk", { detail: name }));
        loadNext();
      };
      document.head.append(script);
    }
  }

  muse.isLoading = () => loading.size + wanted.length > 0;

  /* Load all chunks with these names, and return them. */
  muse.loadAll = (names) =>
    new Promise((resolve) => {
      const check = () => {
        if (!names.every((name) => chunks.has(name))) return;
        muse.events.removeEventListener("chunk", check);
        names.forEach((name) => needed.delete(name));
        resolve(names.map(muse.chunk));
      };
      muse.events.addEventListener("chunk", check);
      names.forEach((name) => needed.add(name));
      muse.want(wanted);
      check();
    });

  muse.events = new EventTarget();
  muse.changed = () => muse.events.dispatchEvent(new Event("change"));

  /* What is shown. The last entry of `classes` is for nuclei without a class. */
  muse.shown = { classes: [], bin: 0, mode: "auto", opacity: 1, imageOpacity: 1, nuclei: true, colors: "safe", layers: new Set() };

  /* The class of a nucleus after corrections; -1 if it is marked as not a nucleus. */
  muse.classOf = (chunk, i) => {
    const mark = muse.marks && muse.marks.size ? muse.marks.get(chunk.rows[i]) : undefined;
    if (mark) return mark.label;
    return chunk.label[i] === NO_CLASS ? muse.slide.classes.length : chunk.label[i];
  };

  muse.colorOf = (label) => {
    const known = muse.slide.classes[label];
    if (!known) return "#444444";
    return muse.shown.colors === "safe" ? known.safe_color : `rgb(${known.color.join(",")})`;
  };

  muse.nameOf = (label) => (muse.slide.classes[label] ? muse.slide.classes[label].name : "no class");

  /* The outline of a nucleus as [x, y, x, y ...], in um. */
  muse.outline = (chunk, i) => {
    const ring = [];
    for (let k = 0; k < chunk.nRays; k++) {
      const angle = (2 * Math.PI * k) / chunk.nRays;
      const ray = chunk.rays[i * chunk.nRays + k] * chunk.rayScale;
      ring.push(chunk.left + chunk.x[i] + ray * Math.cos(angle), chunk.top + chunk.y[i] + ray * Math.sin(angle));
    }
    return ring;
  };

  /* The loaded nucleus with the nearest centre, if its outline contains a position or its centre is within 3 um; otherwise null. */
  muse.pick = (x, y) => {
    const reach = 20;
    let best = null;
    for (const name of muse.chunksIn(x - reach, y - reach, x + reach, y + reach)) {
      const chunk = muse.chunk(name);
      if (!chunk) continue;
      for (let i = 0; i < chunk.n; i++) {
        const dx = x - chunk.left - chunk.x[i];
        const dy = y - chunk.top - chunk.y[i];
        const distance = Math.hypot(dx, dy);
        if (distance > reach || (best && distance >= best.distance)) continue;
        const turn = (Math.atan2(dy, dx) / (2 * Math.PI) + 1) % 1;
        const ray = chunk.rays[i * chunk.nRays + (Math.round(turn * chunk.nRays) % chunk.nRays)] * chunk.rayScale;
        if (distance <= Math.max(ray, 3)) best = { chunk, i, distance, row: chunk.rows[i] };
      }
    }
    return best;
  };
})();
