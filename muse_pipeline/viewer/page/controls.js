/* The panel, which chooses what is shown, and the keys. */
"use strict";

(() => {
  const MODES = ["auto", "outlines", "heat map", "dots"];
  const counts = [];
  let scaleBar, scaleText, position, modeLine, slider, sliderText;

  /* Make an element; attributes that are functions become listeners, and children are elements or text. */
  muse.el = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (name in node && name !== "list") node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const { el } = muse;

  muse.section = (title, ...children) => el("section", {}, el("h2", {}, title), ...children);

  muse.startControls = () => {
    const { slide, shown } = muse;
    muse.keyTexts = [...KEYS];
    shown.classes = slide.classes.map(() => true).concat(true);
    const panel = document.getElementById("panel");
    document.getElementById("image").setAttribute("aria-label", "Image of the slide; arrow keys move it, + and - zoom");
    const leftOut = slide.n_left_out ? `; ${slide.n_left_out.toLocaleString("en")} more in artefacts are not counted` : "";
    panel.append(
      el("h1", {}, el("bdi", {}, slide.slide_id)),
      el("p", { className: "note" }, `${slide.n_nuclei.toLocaleString("en")} nuclei found by `, el("bdi", {}, slide.model), leftOut),
      muse.section("Nuclei", ...classRows(), scoreRow(), modeRow(), opacityRow("Opacity", "opacity"), colorRow()),
      muse.section("Image and areas", imageRow(), ...layerRows()),
    );
    startPosition();
    document.addEventListener("keydown", pressKey);
  };

  function classRows() {
    const { slide, shown } = muse;
    const hasNone = slide.overview.histogram[slide.classes.length].some((n) => n > 0);
    const labels = [...slide.classes.keys(), ...(hasNone ? [slide.classes.length] : [])];
    return labels.map((label) => {
      const swatch = el("span", { className: "swatch" });
      const count = el("output", {});
      counts[label] = { count, swatch };
      const box = el("input", {
        type: "checkbox",
        checked: true,
        change: (event) => {
          shown.classes[label] = event.target.checked;
          muse.changed();
        },
      });
      box.dataset.label = label;
      return el("label", { className: "class" }, box, swatch, el("bdi", {}, muse.nameOf(label)), count);
    });
  }

  function updateCounts() {
    for (const [label, { count, swatch }] of counts.entries()) {
      const n = muse.slide.overview.histogram[label].slice(muse.shown.bin).reduce((sum, each) => sum + each, 0);
      count.value = n.toLocaleString("en");
      swatch.style.background = muse.colorOf(label);
    }
    sliderText.value = (muse.shown.bin / 20).toFixed(2);
  }

  function scoreRow() {
    sliderText = el("output", {});
    slider = el("input", {
      type: "range", min: 0, max: 19, step: 1, value: 0, id: "score",
      input: (event) => {
        muse.shown.bin = Number(event.target.value);
        muse.changed();
      },
    });
    return el("label", { className: "row" }, "Score ≥", slider, sliderText);
  }

  function modeRow() {
    const select = el("select", {
      id: "drawn",
      change: (event) => {
        muse.shown.mode = event.target.value;
        muse.changed();
      },
    }, ...MODES.map((mode) => el("option", { value: mode }, mode === "auto" ? "by zoom" : mode)));
    return el("label", { className: "row" }, "Drawn as", select);
  }

  function opacityRow(title, name) {
    const input = el("input", {
      type: "range", min: 0, max: 100, value: 100, id: name,
      input: (event) => {
        muse.shown[name] = Number(event.target.value) / 100;
        muse.changed();
      },
    });
    return el("label", { className: "row" }, title, input);
  }

  function colorRow() {
    const choose = (event) => {
      muse.shown.colors = event.target.value;
      muse.changed();
    };
    const options = [["safe", "colour-blind"], ["model", "as in QuPath"]];
    return el("label", { className: "row" }, "Colours",
      el("select", { id: "colors", change: choose }, ...options.map(([value, text]) => el("option", { value }, text))));
  }

  function imageRow() {
    if (!muse.slide.image) {
      const gone = "The image store of this slide was removed before this page was made: nuclei are shown on white.";
      return el("p", { className: "warning", id: "no-image" }, gone);
    }
    const input = el("input", {
      type: "range", min: 0, max: 100, value: 100, id: "image-opacity",
      input: (event) => muse.setImageOpacity(Number(event.target.value) / 100),
    });
    return el("label", { className: "row" }, "Image", input);
  }

  function layerRows() {
    return muse.slide.layers.map((layer) => {
      const change = (event) => {
        muse.shown.layers[event.target.checked ? "add" : "delete"](layer.name);
        muse.changed();
      };
      const swatch = el("span", { className: "swatch area" });
      swatch.style.borderColor = layer.color;
      return el("label", { className: "class" }, el("input", { type: "checkbox", checked: muse.shown.layers.has(layer.name), change }), swatch, el("bdi", {}, layer.name));
    });
  }

  function startPosition() {
    const scale = document.getElementById("scale");
    scaleBar = scale.firstElementChild;
    scaleText = document.createTextNode("");
    scale.append(scaleText);
    position = document.getElementById("position");
    modeLine = document.getElementById("mode");
    const panel = document.getElementById("panel");
    const copied = el("output", { className: "note" });
    const copy = async () => {
      const link = muse.link();
      try {
        await navigator.clipboard.writeText(link);
        copied.value = "copied";
      } catch {
        window.prompt("Link to this view", link);
      }
    };
    panel.append(muse.section("Position",
      el("p", { className: "buttons" },
        el("button", { type: "button", click: copy }, "Copy link"),
        el("button", { type: "button", click: muse.fit, title: "Key 0" }, "Whole slide"), copied),
      goToForm(),
      el("details", {}, el("summary", {}, "Keys"), keyList())));
    muse.osd.addHandler("update-viewport", showView);
    muse.events.addEventListener("view", showView);
    muse.events.addEventListener("change", updateCounts);
    muse.osd.canvas.addEventListener("pointermove", (event) => {
      const box = muse.osd.canvas.getBoundingClientRect();
      showPosition(...muse.toSlide({ x: event.clientX - box.left, y: event.clientY - box.top }));
    });
    muse.osd.canvas.addEventListener("pointerleave", () => showPosition(...muse.middle()));
  }

  function goToForm() {
    const input = el("input", { type: "text", id: "goto", placeholder: "x, y in QuPath", autocomplete: "off" });
    const submit = (event) => {
      event.preventDefault();
      const numbers = input.value.split(/[\s,;]+/).map(Number);
      if (numbers.length !== 2 || !numbers.every(Number.isFinite)) return muse.tell("Give two numbers, such as 12000, 8500.");
      muse.goTo(...muse.fromQuPath(...numbers), Math.min(0.5, 1 / muse.view().scale));
    };
    return el("form", { className: "row", submit }, el("label", { htmlFor: "goto" }, "Go to"), input);
  }

  function showView() {
    const { scale, width } = muse.view();
    const longest = (Math.min(width, 600) / 4) / scale;
    const power = 10 ** Math.floor(Math.log10(longest));
    const um = [5, 2, 1].map((step) => step * power).find((each) => each <= longest * (1 + 1e-9));
    scaleBar.style.width = `${um * scale}px`;
    scaleText.data = um >= 1000 ? `${um / 1000} mm` : `${um} µm`;
    showPosition(...muse.middle());
    const densest = muse.mode === "heat map" && muse.densest ? `, darkest ${Math.round(muse.densest).toLocaleString("en")} /mm²` : "";
    modeLine.textContent = `${muse.shown.nuclei ? muse.mode || "" : "nuclei hidden"}${densest} · ${(1 / scale).toPrecision(3)} µm/px`;
  }

  function showPosition(x, y) {
    position.textContent = muse.toQuPath(x, y).map((each) => Math.round(each).toLocaleString("en")).join(", ");
  }

  let telling = 0;

  /* Show a sentence over the image for a few seconds. */
  muse.tell = (sentence) => {
    const notice = document.getElementById("notice");
    notice.textContent = sentence;
    notice.hidden = false;
    clearTimeout(telling);
    telling = setTimeout(() => (notice.hidden = true), 6000);
  };

  const KEYS = [
    ["arrows, + −", "move, zoom"],
    ["0", "whole slide"],
    ["1 – 9", "class on or off"],
    ["N", "all nuclei on or off"],
    ["O", "next way of drawing"],
    [", .", "lower or higher score"],
    ["G", "gallery"],
    ["T", "correct nuclei"],
  ];
  muse.keys = new Map([
    ["0", () => muse.fit()],
    ["n", () => {
      muse.shown.nuclei = !muse.shown.nuclei;
      muse.changed();
    }],
    ["o", () => choose("drawn", MODES[(MODES.indexOf(muse.shown.mode) + 1) % MODES.length], "change")],
    [",", () => choose("score", Math.max(0, muse.shown.bin - 1), "input")],
    [".", () => choose("score", Math.min(19, muse.shown.bin + 1), "input")],
    ["+", () => muse.zoomBy(1.4)],
    ["=", () => muse.zoomBy(1.4)],
    ["-", () => muse.zoomBy(1 / 1.4)],
  ]);

  function keyList() {
    const list = el("dl", { className: "keys" });
    const fill = () => list.replaceChildren(...muse.keyTexts.flatMap(([key, what]) => [el("dt", {}, key), el("dd", {}, what)]));
    muse.events.addEventListener("open", fill);
    return list;
  }

  function choose(id, value, event) {
    const node = document.getElementById(id);
    node.value = value;
    node.dispatchEvent(new Event(event));
  }

  function pressKey(event) {
    const isText = event.target.matches("input[type=text], textarea, select");
    if (isText || event.ctrlKey || event.metaKey || event.altKey) return;
    const isImage = event.target.closest("#image");
    if (isImage && ["+", "=", "-", "0"].includes(event.key)) return; // OpenSeadragon handles these
    const box = /^[1-9]$/.test(event.key) && document.querySelector(`input[data-label="${event.key - 1}"]`);
    if (box) box.click();
    else if (muse.keys.has(event.key.toLowerCase())) {
      if (event.key.length > 1 && event.target.closest("button, input, summary")) return;
      muse.keys.get(event.key.toLowerCase())(event);
    }
  }
})();
