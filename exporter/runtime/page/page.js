"use strict";
// The page is complete without scripts. They add copying, finding, and folds that open for paper.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  async function copy(text) {
    if (navigator.clipboard && window.isSecureContext) {
      try { return await navigator.clipboard.writeText(text); } catch { /* not allowed here */ }
    }
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "unseen";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) throw new Error("not copied");
  }

  for (const button of all("button.copy")) {
    const code = button.closest("figure").querySelector("code");
    const name = button.previousSibling.textContent;
    button.hidden = false;
    button.setAttribute("aria-label", `Copy the call in ${name}`);
    button.addEventListener("click", async () => {
      const say = (text) => { button.textContent = text; };
      try { await copy(code.textContent); say("Copied"); } catch { say("Select it by hand"); }
      button.focus();
      setTimeout(say, 2000, "Copy");
    });
  }

  const tools = document.querySelector(".search");
  if (tools) {
    tools.hidden = false;
    const find = tools.querySelector("input");
    const open = tools.querySelector("button");
    const found = tools.querySelector("output");
    const tree = document.querySelector(".tree");
    const folds = all("details", tree);
    const were = new Map();
    let rows = null;

    // Each row with its path and type, made when it is first needed.
    function index() {
      const paths = new Map([[tree, ""]]);
      return all("li", tree).map((row) => {
        const holder = row.parentElement.closest("li");
        const name = row.querySelector(".name");
        const isGroup = row.querySelectorAll(":scope > details > summary > .name").length > 1;
        const above = holder ? paths.get(holder) : "";
        const step = name.textContent;
        const path = isGroup ? above : above + (above && !step.startsWith("[") ? "." : "") + step;
        paths.set(row, path);
        const isLeaf = row.classList.contains("row");
        const rest = isLeaf ? row.textContent : row.querySelector("summary").textContent;
        // Keys of dicts are found as attributes too.
        const plain = path.replace(/\['([^']*)'\]/g, ".$1");
        return { row, holder, isLeaf, text: `${path} ${plain} ${rest}`.toLowerCase() };
      });
    }

    function filter() {
      rows ??= index();
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      const kept = new Set();
      let count = 0;
      for (const { row, holder, isLeaf, text } of rows) {
        if (!isLeaf || !words.every((word) => text.includes(word))) continue;
        if (row.classList.contains("variable")) count += 1;
        kept.add(row);
        for (let at = holder; at && !kept.has(at); at = at.parentElement.closest("li")) kept.add(at);
      }
      for (const { row } of rows) row.hidden = !kept.has(row);
      found.textContent = `${count.toLocaleString("en")} shown`;
      for (const fold of folds) {
        if (!were.has(fold)) were.set(fold, fold.open);
        const few = kept.size <= 300 && kept.has(fold.parentElement);
        fold.open = words.length ? few : were.get(fold);
      }
      if (!words.length) were.clear();
    }

    let waiting = 0;
    find.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(filter, 120);
    });
    find.addEventListener("keydown", (event) => {
      if (event.key === "Escape") { find.value = ""; filter(); }
    });
    open.addEventListener("click", () => {
      const opens = open.getAttribute("aria-pressed") !== "true";
      for (const fold of folds) fold.open = opens;
      open.setAttribute("aria-pressed", String(opens));
      open.textContent = opens ? "Close all" : "Open all";
    });
  }

  // What is folded would be missing on paper, unless it is a book. Listings of programs are.
  let opened = [];
  addEventListener("beforeprint", () => {
    const closed = all("details:not([open], .listing-fold, .listing-fold *)");
    opened = document.querySelectorAll("li.row").length <= 1000 ? closed : [];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of opened) fold.open = false;
    opened = [];
  });
})();
