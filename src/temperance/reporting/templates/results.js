"use strict";

// Tables of class "results": searched, sorted and drawn one page at a time.
// A column is its distinct texts in the order of their values, and for each row a code: the place
// of its text, or -1 where there is none. So codes are sorted, texts searched, no number is parsed.

const PAGE = 50;
const MISSING = "\u2013";
const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

for (const results of document.querySelectorAll(".results")) {
  const columns = JSON.parse(results.querySelector("script").textContent);
  const headings = [...results.querySelectorAll("thead th")];
  const choices = [...results.querySelectorAll("select")];
  const search = results.querySelector("input");
  const body = results.querySelector("tbody");
  const [previous, next] = results.querySelectorAll(".pages button");
  const found = results.querySelector("output");
  const place = results.querySelector(".pages span");
  const everything = columns[0].codes.map((_, row) => row);
  let searched; // what is searched of every row, made when it is first needed
  let rows = everything;
  let page = 0;

  results.addEventListener("input", update);
  previous.addEventListener("click", () => draw(page - 1));
  next.addEventListener("click", () => draw(page + 1));
  for (const heading of headings) {
    heading.querySelector("button").addEventListener("click", () => {
      const direction = NEXT[heading.ariaSort];
      for (const other of headings) other.ariaSort = "none";
      heading.ariaSort = direction;
      update();
    });
  }
  results.hidden = false;
  update();

  function update() {
    const tests = [];
    for (const choice of choices) {
      if (choice.value === "") continue;
      const { codes } = columns[choice.dataset.column];
      const wanted = Number(choice.value);
      tests.push((row) => codes[row] === wanted);
    }
    for (const word of comparable(search.value).split(/\s+/).filter(Boolean)) {
      searched ??= everything.map((row) => comparable(texts(row).join("\n")));
      tests.push((row) => searched[row].includes(word));
    }
    rows = everything.filter((row) => tests.every((test) => test(row)));

    const sorted = headings.findIndex(({ ariaSort }) => ariaSort !== "none");
    if (sorted >= 0) {
      const { codes } = columns[sorted];
      const sign = headings[sorted].ariaSort === "ascending" ? 1 : -1;
      // What is not known comes last in both directions; equal values keep the order of the table.
      rows.sort((a, b) => (codes[a] < 0) - (codes[b] < 0) || sign * (codes[a] - codes[b]));
    }
    found.textContent = `${thousands(rows.length)} of ${thousands(everything.length)} rows`;
    draw(0);
  }

  function draw(to) {
    page = to;
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    body.replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map(line));
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
    place.textContent = `page ${thousands(page + 1)} of ${thousands(pages)}`;
  }

  function line(row) {
    const drawn = document.createElement("tr");
    texts(row).forEach((text, i) => {
      const cell = document.createElement(i === 0 ? "th" : "td");
      if (i === 0) cell.scope = "row";
      cell.className = headings[i].className;
      cell.textContent = text; // as text: markup in a cell stays visible
      drawn.append(cell);
    });
    return drawn;
  }

  function texts(row) {
    return columns.map((column) => column.texts[column.codes[row]] ?? MISSING);
  }
}

// A minus sign is typed as a hyphen.
function comparable(text) {
  return text.toLowerCase().replaceAll("\u2212", "-");
}

function thousands(count) {
  return count.toLocaleString("en-US");
}
