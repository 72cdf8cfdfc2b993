document.querySelectorAll("table.sort th").forEach((th, column) => {
  const button = document.createElement("button");
  button.append(...th.childNodes);
  th.append(button);
  button.addEventListener("click", () => {
    const body = th.closest("table").tBodies[0];
    const up = th.getAttribute("aria-sort") !== "ascending";
    th.parentNode.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].textContent.trim();
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1);
      const by = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? by : -by;
    };
    body.append(...[...body.rows].sort(order));
  });
});
