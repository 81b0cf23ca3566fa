/* Two results of a slide beside each other: views move together, and nuclei that differ are visited one by one. */
"use strict";

(() => {
  const UM_PER_PX = 0.25; // at which a difference is shown
  const { slide_id: name, sides, kinds } = window.differences;
  const frames = [...document.querySelectorAll("iframe")];
  const bar = document.getElementById("bar");
  let number = -1;
  let nOpen = 0;

  function make(tag, properties, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  const select = make("select", { id: "kind", ariaLabel: "Nuclei that differ", onchange: () => visit(0) });
  for (const [i, kind] of kinds.entries()) select.add(new Option(`${kind.text}: ${kind.n.toLocaleString("en")}`, i));
  const counter = make("output", { id: "counter" });
  const step = (by) => visit(number + by);
  bar.append(
    make("h1", {}, make("bdi", {}, name)),
    ...(kinds.length ? [
      select,
      make("button", { type: "button", id: "previous", title: "Key P", onclick: () => step(-1) }, "Previous"),
      make("button", { type: "button", id: "next", title: "Key N", onclick: () => step(1) }, "Next"),
      counter,
    ] : ["No nucleus differs."]),
    make("button", { type: "button", id: "panels", onclick: () => send({ kind: "panel" }) }, "Controls of both"),
  );
  for (const [i, heading] of [...document.querySelectorAll("h2")].entries()) {
    const { folder, model, n_nuclei: n } = sides[i];
    heading.append(make("bdi", {}, folder), " ", make("small", {}, `${n.toLocaleString("en")} nuclei found by ${model}`));
    frames[i].title = `Viewer of ${folder}`;
  }

  function send(message, to = frames) {
    for (const frame of to) frame.contentWindow.postMessage(message, "*");
  }

  /* Show a difference in both viewers; after the last comes the first. */
  function visit(wanted) {
    const { at } = kinds[select.value];
    number = (wanted + at.length) % at.length;
    const [x, y] = at[number];
    counter.value = `${(number + 1).toLocaleString("en")} of ${at.length.toLocaleString("en")}`;
    send({ kind: "ring", x, y });
    send({ kind: "view", x, y, umPerPx: UM_PER_PX });
  }

  window.addEventListener("message", ({ source, data }) => {
    const other = frames.filter((frame) => frame.contentWindow !== source);
    if (other.length !== 1) return;
    if (data.kind === "view") send(data, other);
    else if (data.kind === "open" && ++nOpen === 2) window.isOpen = true;
  });
  document.addEventListener("keydown", (event) => {
    if (!kinds.length || event.target === select || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.toLowerCase() === "n") step(1);
    else if (event.key.toLowerCase() === "p") step(-1);
  });
})();
