// Filters the table of slides, sorts any table, and opens slides of a large cohort. Without this script the page of a
// small cohort is still complete, in its initial order.
function makeSortable(table) {
  const body = table.tBodies[0];
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => compare(valueOf(a, column), valueOf(b, column)));
      body.append(...(descending ? rows.reverse() : rows));
      table.dispatchEvent(new Event("sorted"));
    });
  });
}
document.querySelectorAll("table.sortable").forEach(makeSortable);

// In a large cohort, each card is text in the script element `cards` until its slide is opened.
const cards = document.getElementById("cards");
function openSlide() {
  const anchor = location.hash.slice(1);
  if (!cards || !/^slide-\d+$/.test(anchor) || document.getElementById(anchor)) return;
  const text = cards.textContent;
  const start = text.indexOf(`<article id="${anchor}"`);
  if (start < 0) return;
  document.getElementById("opened").insertAdjacentHTML("afterend", text.slice(start, text.indexOf("</article>", start)));
  const card = document.getElementById(anchor);
  card.querySelectorAll("table.sortable").forEach(makeSortable);
  card.scrollIntoView();
}
window.addEventListener("hashchange", openSlide);
openSlide();

// Filters the rows of the table and the cards below it: by a text in the name or group, by a kind, and by lower and upper limits
// of the value in a chosen column. In a large cohort only the first matches are shown until "Show all" is pressed.
for (const scroll of document.querySelectorAll(".slides")) {
  const table = scroll.querySelector("table");
  const rows = [...table.tBodies[0].rows];
  const words = new Map(
    rows.map((row) => [row, [...row.querySelectorAll("th, .group")].map((cell) => cell.textContent.toLowerCase())]),
  );
  let most = rows.filter((row) => !row.hidden).length;
  const kinds = {
    "all slides": () => true,
    "red: needs attention": (row) => row.dataset.level === "red",
    "amber: check before use": (row) => row.dataset.level === "amber",
    "neither red nor amber": (row) => !row.dataset.level,
    failed: (row) => row.dataset.status === "failed",
    partial: (row) => row.dataset.status === "partial",
    empty: (row) => row.dataset.status === "empty",
  };
  const bar = document.createElement("form");
  const text = document.createElement("input");
  const kind = document.createElement("select");
  const shown = document.createElement("output");
  bar.className = "filter";
  text.type = "search";
  text.placeholder = text.ariaLabel = scroll.querySelector(".group") ? "Filter by name or group" : "Filter by name";
  kind.ariaLabel = "Filter by kind";
  const column = document.createElement("select");
  const [from, to] = ["from", "to"].map((word) => {
    const input = document.createElement("input");
    Object.assign(input, { type: "number", step: "any", placeholder: word, ariaLabel: `Column ${word}`, className: "bound" });
    return input;
  });
  column.ariaLabel = "Column to filter by";
  for (const heading of scroll.querySelectorAll("thead th.number")) column.add(new Option(heading.textContent, heading.cellIndex));
  const isBetween = (row) => {
    if (from.value === "" && to.value === "") return true;
    const { value } = row.cells[column.value].dataset;
    const number = value === undefined || Number(value) < 0 ? NaN : Number(value);
    return number >= (from.value === "" ? -Infinity : Number(from.value)) && number <= (to.value === "" ? Infinity : Number(to.value));
  };
  for (const [name, holds] of Object.entries(kinds)) {
    if (rows.some(holds)) kind.add(new Option(name));
  }
  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    let n = 0;
    for (const row of table.tBodies[0].rows) {
      const isNamed = words.get(row).some((word) => word.includes(wanted));
      const isWanted = kinds[kind.value](row) && isNamed && isBetween(row);
      n += isWanted;
      row.hidden = !isWanted || n > most;
      const card = document.getElementById(row.dataset.slide);
      if (card) card.hidden = !isWanted;
    }
    shown.value = n > most ? `first ${most} of ${n}` : `${n} of ${rows.length} shown`;
    all.hidden = n <= most;
  };
  const all = document.createElement("button");
  Object.assign(all, { type: "button", textContent: "Show all" });
  all.addEventListener("click", () => {
    most = rows.length;
    filter();
  });
  table.addEventListener("sorted", filter);
  bar.addEventListener("input", filter);
  bar.addEventListener("submit", (event) => event.preventDefault());
  bar.append(text, kind, column, from, to, shown, all);
  scroll.before(bar);
  filter();
}
