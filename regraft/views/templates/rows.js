// Tables of rows: a click on a heading sorts by it, twice the other way; what is typed above a long one hides rows
// without it.
for (const table of document.querySelectorAll("table.rows")) {
  const rows = [...table.rows].slice(1);
  const filter = Object.assign(document.createElement("input"), { type: "search", placeholder: "show rows with …" });
  filter.setAttribute("aria-label", filter.placeholder);
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  if (rows.length > 9) table.parentElement.before(filter);
  // A number alone, or the score in brackets behind a text.
  const number = (text) => parseFloat((/\(([-+]?[\d.]+)\)$/.exec(text) ?? [, text.replaceAll(",", "")])[1]);
  const headings = [...table.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.ariaSort === "ascending" ? -1 : 1;
      for (const other of headings) other.ariaSort = null;
      heading.ariaSort = down > 0 ? "ascending" : "descending";
      const of = (row) => row.cells[column].textContent.trim();
      const numeric = rows.every((row) => !isNaN(number(of(row))));
      rows.sort((a, b) => down * (numeric ? number(of(a)) - number(of(b)) : of(a).localeCompare(of(b))));
      table.tBodies[0].append(...rows);
    });
  });
}
