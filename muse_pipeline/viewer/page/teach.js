/* Corrections: changed classes, added nuclei and checked areas. This browser keeps them as a list of steps, from which all
   else is derived; the download is for QuPath and `muse finetune`. */
"use strict";

(() => {
  const NONE = -1;
  const GROW_UM = 1.5; // the area around a single marked nucleus extends this far beyond its outline
  const POINT_UM = 5; // half the side of the area around an added nucleus
  const { el } = muse;
  let steps = [];
  let target = 0;
  let isOn = false;
  let toggle, targets, summary, stale;

  muse.marks = new Map(); // by row of the table: {row, x, y, label, ring}
  let added = [];
  let areas = [];

  /* The left, top, right and bottom, in um, of the part that QuPath shows. */
  const scanned = () => muse.slide.scanned_px.map((px, i) => px * muse.slide.mpp[i % 2]);

  /* Viewers in all folders may share the browser's storage. JSON delimits the slide's name, so no key begins with another. */
  const prefix = () => `muse ${JSON.stringify([muse.slide.slide_id, muse.slide.fingerprint])} `;
  const key = () => prefix() + muse.slide.checksum;

  muse.startTeaching = () => {
    const { slide } = muse;
    toggle = el("button", { type: "button", id: "teach", "aria-pressed": "false", click: () => turn(!isOn), title: "Key T" }, "Correct nuclei");
    targets = el("div", { role: "radiogroup", "aria-label": "Mark as" },
      ...[...slide.classes.map((each, label) => [label, each.name]), [NONE, "not a nucleus"]].map(([label, name]) => radio(label, name)));
    summary = el("p", { id: "touched", role: "status" });
    stale = el("p", { className: "warning", hidden: true });
    const button = (id, text, click, title = "") => el("button", { type: "button", id, click, title }, text);
    const tools = el("div", { id: "tools", hidden: true },
      el("p", { className: "note" }, "Click a nucleus to give it this class; click where one was missed to add it:"),
      targets,
      el("p", { className: "note" }, "Mark an area as checked if every nucleus in it is right. Hold Shift and drag to mark an area."),
      el("p", { className: "buttons" }, button("check-view", "This view is checked", checkView, "Key C")));
    const actions = el("p", { className: "buttons" },
      button("undo", "Undo", undo, "Key U"),
      button("download", "Download", download),
      button("discard", "Discard all", discard));
    document.getElementById("panel").append(muse.section("Corrections", toggle, tools, summary, actions, stale));
    muse.osd.addHandler("canvas-click", click);
    muse.dragBoxes((event) => isOn && event.shift, check);
    addKeys();
    restore();
  };

  function radio(label, name) {
    const change = () => (target = label);
    const swatch = el("span", { className: "swatch" });
    swatch.style.background = label === NONE ? "#fff" : muse.colorOf(label);
    if (label === NONE) swatch.style.border = "2px solid #444";
    const input = el("input", { type: "radio", name: "target", value: label, checked: label === target, change });
    return el("label", { className: "class" }, input, swatch, el("bdi", {}, name));
  }

  function turn(on) {
    isOn = on;
    toggle.setAttribute("aria-pressed", String(on));
    document.getElementById("tools").hidden = !on;
    document.getElementById("stage").classList.toggle("teaching", on);
  }

  function addKeys() {
    const whenOn = (action) => () => isOn && action();
    muse.keys.set("t", () => turn(!isOn));
    muse.keys.set("u", undo);
    muse.keys.set("c", whenOn(checkView));
    muse.keys.set("m", whenOn(() => mark(...muse.middle())));
    muse.keyTexts.push(["M", "correct: mark what is in the middle"], ["C", "correct: this view is checked"], ["U", "correct: undo"]);
  }

  /* Steps */

  function act(step) {
    steps.push(step);
    keep();
    replay();
  }

  function replay() {
    muse.marks = new Map();
    added = [];
    areas = [];
    for (const step of steps) {
      if (step.kind === "mark") muse.marks.set(step.row, step);
      else if (step.kind === "add") added.push(step);
      else if (step.kind === "remove") added = added.filter((each) => each.x !== step.x || each.y !== step.y);
      else areas.push(step.box);
    }
    const parts = [
      `${muse.marks.size} marked`,
      `${added.length} added`,
      `${areas.length} ${areas.length === 1 ? "area" : "areas"} checked`,
    ];
    summary.textContent = steps.length ? parts.join(", ") : "Nothing corrected yet.";
    for (const id of ["undo", "download", "discard"]) document.getElementById(id).disabled = !steps.length;
    muse.changed();
  }

  function keep() {
    try {
      if (steps.length) localStorage.setItem(key(), JSON.stringify(steps));
      else localStorage.removeItem(key());
    } catch (error) {
      muse.tell(`Corrections cannot be kept by this browser (${error.message}); download them before you leave.`);
    }
  }

  function restore() {
    try {
      steps = JSON.parse(localStorage.getItem(key()) || "[]");
      const older = Object.keys(localStorage).filter((name) => name.startsWith(prefix()) && name !== key());
      if (older.length) warnOfOlder(older);
    } catch {
      steps = [];
    }
    replay();
  }

  function warnOfOlder(names) {
    const forget = () => {
      for (const name of names) localStorage.removeItem(name);
      stale.hidden = true;
    };
    stale.hidden = false;
    stale.replaceChildren("This browser has corrections of an earlier result of this slide, or of a result in another folder. They do not fit these nuclei. ",
      el("button", { type: "button", id: "forget", click: forget }, "Forget them"));
  }

  function undo() {
    if (steps.pop()) {
      keep();
      replay();
    }
  }

  function discard() {
    if (!window.confirm("Discard all corrections of this slide?")) return;
    steps = [];
    keep();
    replay();
  }

  /* Marking */

  function click(event) {
    if (!isOn || !event.quick) return;
    mark(...muse.toSlide(event.position));
  }

  function mark(x, y) {
    const near = added.findIndex((each) => Math.hypot(each.x - x, each.y - y) < 4);
    const picked = muse.pick(x, y);
    if (near >= 0 && !picked) {
      const { x: oldX, y: oldY } = added[near];
      act({ kind: "remove", x: oldX, y: oldY });
      if (target !== NONE) act({ kind: "add", x: oldX, y: oldY, label: target });
    } else if (picked) {
      const { chunk, i, row } = picked;
      const ring = muse.outline(chunk, i).map(hundredth);
      act({ kind: "mark", row, x: hundredth(chunk.left + chunk.x[i]), y: hundredth(chunk.top + chunk.y[i]), label: target, ring });
    } else if (target === NONE) {
      muse.tell("There is no nucleus here.");
    } else if (!isInside(corners(scanned()), x, y)) {
      muse.tell("This is outside the slide.");
    } else {
      act({ kind: "add", x: hundredth(x), y: hundredth(y), label: target });
    }
  }

  const corners = ([left, top, right, bottom]) => [left, top, right, top, right, bottom, left, bottom];
  const hundredth = (value) => Math.round(value * 100) / 100;

  function check(box) {
    const { shown } = muse;
    if (!shown.nuclei || shown.bin > 0 || shown.classes.includes(false)) {
      muse.tell("Some nuclei are hidden: show all classes and scores before you mark an area as checked.");
      return;
    }
    const [left, top, right, bottom] = scanned().map((edge, i) => (i < 2 ? Math.max : Math.min)(edge, box[i]));
    if (right - left < 5 || bottom - top < 5) return muse.tell("The area is too small, or outside the slide.");
    act({ kind: "area", box: [left, top, right, bottom].map(hundredth) });
  }

  function checkView() {
    const view = muse.view();
    check([view.left, view.top, view.left + view.width / view.scale, view.top + view.height / view.scale]);
  }

  /* Drawing */

  muse.drawMarks = ({ pen, x, y, scale, ratio }) => {
    const path = (ring) => {
      pen.beginPath();
      for (let k = 0; k < ring.length; k += 2) pen.lineTo(x(ring[k]), y(ring[k + 1]));
      pen.closePath();
    };
    const stroke = (color, width) => {
      pen.strokeStyle = "#fff";
      pen.lineWidth = (width + 2) * ratio;
      pen.stroke();
      pen.strokeStyle = color;
      pen.lineWidth = width * ratio;
      pen.stroke();
    };
    pen.setLineDash([8 * ratio, 5 * ratio]);
    for (const box of areas) {
      path(corners(box));
      stroke("#000", 2);
    }
    pen.setLineDash([]);
    for (const { label, ring, x: centreX, y: centreY } of muse.marks.values()) {
      path(ring);
      stroke(label === NONE ? "#444" : muse.colorOf(label), 3);
      if (label === NONE) cross(pen, x(centreX), y(centreY), 3 * scale);
      if (label === NONE) stroke("#444", 2);
    }
    for (const { label, x: centreX, y: centreY } of added) {
      pen.beginPath();
      pen.arc(x(centreX), y(centreY), Math.max(4 * ratio, 3.5 * scale), 0, 2 * Math.PI);
      stroke(muse.colorOf(label), 3);
      pen.beginPath();
      pen.arc(x(centreX), y(centreY), 2 * ratio, 0, 2 * Math.PI);
      stroke(muse.colorOf(label), 2);
    }
  };

  function cross(pen, x, y, reach) {
    pen.beginPath();
    for (const [dx, dy] of [[1, 1], [1, -1]]) {
      pen.moveTo(x - dx * reach, y - dy * reach);
      pen.lineTo(x + dx * reach, y + dy * reach);
    }
  }

  /* GeoJSON */

  async function download() {
    const text = JSON.stringify(await muse.corrections());
    const address = URL.createObjectURL(new Blob([text], { type: "application/geo+json" }));
    el("a", { href: address, download: `${muse.slide.slide_id}.geojson` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  /* Corrections as QuPath would export them: checked regions, and every nucleus in them. */
  muse.corrections = async () => {
    const rings = regionRings();
    const features = rings.map(regionFeature);
    const seen = new Set();
    for (const ring of rings) {
      const box = bounds(ring);
      for (const chunk of await muse.loadAll(muse.chunksIn(...box))) {
        for (let i = 0; i < chunk.n; i++) {
          const [x, y] = [chunk.left + chunk.x[i], chunk.top + chunk.y[i]];
          const isOutside = x < box[0] || y < box[1] || x > box[2] || y > box[3];
          if (isOutside || seen.has(chunk.rows[i]) || !isInside(ring, x, y)) continue;
          seen.add(chunk.rows[i]);
          const label = muse.classOf(chunk, i);
          if (label !== NONE) features.push(nucleusFeature(muse.outline(chunk, i), label));
        }
      }
    }
    features.push(...added.map(({ x, y, label }) => ({
      type: "Feature",
      geometry: { type: "Point", coordinates: qupathPosition(x, y) },
      properties: { objectType: "annotation", ...classification(label) },
    })));
    return { type: "FeatureCollection", features };
  };

  /* The checked areas, and an area of its own for every marked or added nucleus outside them. */
  function regionRings() {
    const boxes = areas.map(corners);
    const isCovered = ({ x, y }) => boxes.some((ring) => isInside(ring, x, y));
    const marked = [...muse.marks.values()].filter((each) => !isCovered(each)).map(({ ring, x, y }) => grow(ring, x, y));
    const points = added.filter((each) => !isCovered(each)).map(({ x, y }) =>
      [[-1, -1], [1, -1], [1, 1], [-1, 1]].flatMap(([dx, dy]) => [x + dx * POINT_UM, y + dy * POINT_UM]));
    return [...boxes, ...marked, ...points];
  }

  function grow(ring, x, y) {
    const grown = [];
    for (let k = 0; k < ring.length; k += 2) {
      const angle = (2 * Math.PI * k) / ring.length;
      grown.push(ring[k] + GROW_UM * Math.cos(angle), ring[k + 1] + GROW_UM * Math.sin(angle));
    }
    return grown;
  }

  const bounds = (ring) => {
    const [xs, ys] = [ring.filter((_, k) => k % 2 === 0), ring.filter((_, k) => k % 2 === 1)];
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  };

  function isInside(ring, x, y) {
    let inside = false;
    for (let k = 0, last = ring.length - 2; k < ring.length; last = k, k += 2) {
      const crosses = ring[k + 1] > y !== ring[last + 1] > y;
      if (crosses && x < ((ring[last] - ring[k]) * (y - ring[k + 1])) / (ring[last + 1] - ring[k + 1]) + ring[k]) inside = !inside;
    }
    return inside;
  }

  /* Positions in QuPath, limited to its image. */
  const qupathPosition = (x, y) => {
    const [left, top, right, bottom] = scanned();
    const within = muse.toQuPath(Math.min(Math.max(x, left), right), Math.min(Math.max(y, top), bottom));
    return within.map(hundredth);
  };

  function polygon(ring) {
    const positions = [];
    for (let k = 0; k < ring.length; k += 2) positions.push(qupathPosition(ring[k], ring[k + 1]));
    return { type: "Polygon", coordinates: [[...positions, positions[0]]] };
  }

  /* The metadata identify the result that a region was drawn on; QuPath keeps them when it exports the region again. */
  function regionFeature(ring) {
    const metadata = { "muse slide": muse.slide.fingerprint, "muse nuclei": muse.slide.checksum };
    const properties = { objectType: "annotation", classification: { name: "Region*", color: [180, 180, 180] }, metadata };
    return { type: "Feature", geometry: polygon(ring), properties };
  }

  const nucleusFeature = (ring, label) => ({
    type: "Feature",
    geometry: polygon(ring),
    properties: { objectType: "detection", ...classification(label) },
  });

  function classification(label) {
    const known = muse.slide.classes[label];
    return known ? { classification: { name: known.name, color: known.color } } : {};
  }
})();
