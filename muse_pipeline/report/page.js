// Filters the table of slides and sorts any table; without this script both are complete, in their first order.
for (const table of document.querySelectorAll("table.sortable")) {
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
    });
  });
}

// Shows the slides, in the table and below it, whose names contain the text, that are of the kind chosen, and whose value in
// the column chosen lies between two numbers.
for (const scroll of document.querySelectorAll(".slides")) {
  const rows = [...scroll.querySelector("table").tBodies[0].rows];
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
  text.placeholder = text.ariaLabel = "Filter by name";
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
    for (const row of rows) {
      const isNamed = row.cells[0].textContent.toLowerCase().includes(wanted);
      row.hidden = !(kinds[kind.value](row) && isNamed && isBetween(row));
      document.getElementById(row.dataset.slide).hidden = row.hidden;
      n += !row.hidden;
    }
    shown.value = `${n} of ${rows.length} shown`;
  };
  bar.addEventListener("input", filter);
  bar.addEventListener("submit", (event) => event.preventDefault());
  bar.append(text, kind, column, from, to, shown);
  scroll.before(bar);
  filter();
}
