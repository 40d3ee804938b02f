// Column headings become buttons that sort their table: words from A, numbers from the largest, and
// a second time the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace(/[<,\s]/g, ""));
    return { text, number };
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const words = [...body.rows].every((row) => isNaN(value(row, column).number));
      const up = head.ariaSort ? head.ariaSort === "descending" : words;
      const sign = up ? 1 : -1;
      heads.forEach((other) => { other.ariaSort = null; });
      head.ariaSort = up ? "ascending" : "descending";
      body.append(...[...body.rows].sort((one, two) => {
        const a = value(one, column), b = value(two, column);
        if (words) return sign * a.text.localeCompare(b.text);
        // What is no number stays at the end, whichever end that is.
        if (isNaN(a.number) || isNaN(b.number)) return isNaN(a.number) - isNaN(b.number);
        return sign * (a.number - b.number);
      }));
    });
  });
}
