// The page around the list: views, tools, keyboard and dialog. The state is in the address, so that back and forward go through it.
const state = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

function address(changes) {
  const next = new URLSearchParams({ ...state(), ...changes });
  for (const [name, value] of [...next]) if (value === "") next.delete(name);
  return `#${next}`;
}

function go(changes, replace = false) {
  takeTyped();
  visit(address(changes), replace);
}

function visit(hash, replace = false) {
  takeTyped();
  if (hash === (location.hash || "#")) return;
  const at = list.place.offsetParent ? list.last + list.shift : (history.state?.at ?? 0);
  if (replace) history.replaceState(history.state, "", hash);
  else {
    history.replaceState({ at }, "");
    history.pushState(null, "", hash);
  }
  update();
}

// A model's name; of one that is a folder, its last two names.
const modelName = (name) => (name.startsWith("/") ? name.split("/").filter(Boolean).slice(-2).join("/") : name);

// page: what this page is about, an object with
//   noun, searched, holds, views, orders: names for people; make(), fill(row, number): the rows of the list; enter(number): Enter on a row;
//   filtered(state): a promise of some numbers, or null for all; filter(state): its name;
//   drawView(view); drawDialog(place, state): false where there is nothing to show; beside(by): the state of the picture before or after.
let page, lines = null, chosen, told, run = 0, placed;
const at = (index) => (lines ? lines[index] : index);

function start(given) {
  page = given;
  document.body.classList.add(about.kind);
  $("title").textContent = about.named.title;
  $("summary").textContent = page.summary;
  $("query").placeholder = $("query-name").textContent = `Search in the ${page.searched}`;
  $("goto").placeholder = $("goto-name").textContent = `Go to ${page.noun}`;
  $("lines-heading").textContent = page.views[""];
  $("views").append(element("ul", {}, ...Object.entries(page.views).map(([view, name]) =>
    element("li", {}, element("a", { href: view ? `#view=${view}` : "#", textContent: name })))));
  $("sort").append(...Object.entries(page.orders).map(([value, text]) => element("option", { value, text })));
  for (const [key, what] of Object.entries({ "/": "search", "j or ↓": `next ${page.noun}`, "k or ↑": `${page.noun} before`, "Enter": "enlarge",
    "← →": "in the enlarged view: the next ones", "g": `go to a ${page.noun} by its number`, "Esc": "close, or clear the search" })) {
    $("keys").append(element("dt", {}, element("kbd", { textContent: key })), element("dd", { textContent: what }));
  }
  for (const [name, what] of page.told) if (what) $("told").append(element("dt", { textContent: name }), element("dd", { textContent: what }));
  list = new List($("list"), page.make, (row, index) => page.fill(row, at(index)));
  listen();
  update();
  loadInBackground();
}

function update(restore) {
  const now = state();
  const view = now.view in page.views && now.view ? now.view : "";
  for (const link of $("views").querySelectorAll("a")) {
    const shown = link.getAttribute("href") === (view ? `#view=${view}` : "#");
    if (shown) link.ariaCurrent = "page";
    else link.removeAttribute("aria-current");
  }
  for (const name of ["lines", "pictures", "good", "about"]) $(`view-${name}`).hidden = (view || "lines") !== name;
  const dialog = $("enlarged");
  if (now.show !== undefined && drawn(dialog, now)) {
    if (!dialog.open) {
      dialog.showModal();
      $("close").focus();
    }
  } else if (dialog.open) dialog.close();
  if (view) return page.drawView(view);
  if ($("query").value.trim() !== (now.q ?? "")) $("query").value = now.q ?? "";
  $("sort").value = now.sort in page.orders ? now.sort : "";
  const key = JSON.stringify([now.q, now.sort, now.picture]);
  const finish = () => {
    if (restore !== undefined) list.goTo(restore);
    else if (now.line !== placed && now.line) place(Number(now.line) - 1);
    placed = now.line;
  };
  if (key === chosen) {
    list.measure();
    return finish();
  }
  chosen = key;
  const mine = ++run;
  choose(now, () => mine === run).then((whole) => whole && finish(), () => {});
}

// Draws the dialog; what has the focus there keeps it, by its words.
function drawn(dialog, now) {
  const focused = dialog.open && $("shown").contains(document.activeElement) ? document.activeElement.textContent : undefined;
  if (!page.drawDialog($("shown"), now)) return false;
  $("before").ariaDisabled = String(!page.beside(-1));
  $("next").ariaDisabled = String(!page.beside(1));
  if (focused !== undefined) ([...$("shown").querySelectorAll("button, a")].find((one) => one.textContent === focused) ?? $("close")).focus();
  return true;
}

function turn(by) {
  const beside = page.beside(by);
  if (beside) go(beside, true);
}

// The numbers that the state asks for, in its order; returns whether they are all there, and nothing else has been asked for since.
async function choose(now, current) {
  const [within, order] = [await page.filtered(now), now.sort && now.sort in page.orders ? await ordered(now.sort) : null];
  if (!current()) return false;
  $("unfilter").hidden = !within;
  if (within) $("unfilter").textContent = `${page.filter(now)} ×`;
  if (!now.q) {
    setLines(within && order ? kept(order, within) : (within ?? order), "");
    return true;
  }
  const inside = within && new Set(within);
  await search(now.q, current, (found, share) => {
    const some = inside ? found.filter((line) => inside.has(line)) : found;
    setLines(order && share === 1 ? kept(order, some) : some, share < 1 ? `, ${Math.round(100 * share)}% searched` : "");
  });
  return current();
}

function setLines(found, more) {
  lines = found;
  const total = found ? found.length : about.lines;
  $("count").textContent = `${plural(total, page.noun)}${total < about.lines ? ` of ${number(about.lines)}` : ""}${more}`;
  const { q, picture } = state();
  $("nothing").hidden = total > 0 || more !== "";
  $("nothing-told").textContent = q ? `No ${page.noun} ${picture ? "with this picture " : ""}${page.holds} “${q}”` : `No ${page.noun} to show.`;
  $("clear").hidden = !q;
  list.setTotal(total);
}

// Go to a line by its number: in the list as it is if it has it, else in the list of all.
function place(line) {
  const index = lines ? lines.indexOf(line) : line;
  if (index >= 0 && index < list.total) {
    list.active = index;
    list.show(index, 0.2);
    list.rows.get(index)?.focus({ preventScroll: true });
  } else if (line >= 0 && line < about.lines) go({ q: "", sort: "", picture: "", line: line + 1 }, true);
}

// What is typed is searched for a moment later, or before anything else changes.
let typing = 0;
function takeTyped() {
  if (!typing) return;
  clearTimeout(typing);
  typing = 0;
  const q = $("query").value.trim();
  go({ q, line: "" }, Boolean(q && state().q)); // while a query is typed, it is one step of the history
}

function listen() {
  addEventListener("popstate", (event) => {
    clearTimeout(typing);
    typing = 0;
    update(event.state?.at);
  });
  $("query").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(takeTyped, 120);
  });
  $("clear").addEventListener("click", () => {
    go({ q: "" });
    $("query").focus();
  });
  $("tools").addEventListener("submit", (event) => event.preventDefault());
  $("sort").addEventListener("change", () => {
    const sort = $("sort").value;
    go({ sort, line: "" });
  });
  $("unfilter").addEventListener("click", () => go({ picture: "", line: "" }));
  $("enlarged").addEventListener("close", () => {
    go({ show: "", of: "" });
    const inside = $("list").contains(document.activeElement) && document.activeElement !== $("list");
    if (!$("view-lines").hidden && !inside) list.rows.get(list.active)?.focus({ preventScroll: true });
  });
  $("before").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("close").addEventListener("click", () => $("enlarged").close());
  $("enlarged").addEventListener("click", (event) => {
    if (event.target === $("enlarged")) $("enlarged").close();
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (link.className === "skip") return void list.activate(list.active);
    if (!link.hash.includes("view=") && !$("view-lines").hidden) placed = undefined;
    visit(link.getAttribute("href"));
  });
  document.addEventListener("keydown", pressed);
}

// Keys in a field: its own, and Enter and Escape out of it.
function typed(event) {
  const { target, key } = event;
  if (key === "Escape") {
    if (!target.value || target === $("sort")) target.blur();
    else if (target === $("query")) go({ q: (target.value = "") });
    else target.value = "";
  } else if (target === $("query") && (key === "ArrowDown" || key === "Enter")) list.activate(0);
  else if (target === $("goto") && key === "Enter") {
    const asked = Number(target.value.replace(/\D/g, ""));
    target.value = "";
    if (!asked) return;
    placed = undefined;
    const line = String(Math.min(asked, about.lines));
    if (line === state().line) place(line - 1);
    else go({ line });
  } else return;
  event.preventDefault();
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.matches("input, select, textarea");
  if ($("enlarged").open) {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") turn(event.key === "ArrowRight" ? 1 : -1);
    return;
  }
  if (inField) {
    return void typed(event);
  }
  const keys = {
    "/": () => { go({ view: "" }); $("query").focus(); $("query").select(); },
    g: () => { go({ view: "" }); $("goto").focus(); },
  };
  if (!$("view-lines").hidden) {
    const inList = $("list").contains(document.activeElement);
    keys.j = keys.ArrowDown = () => list.activate(inList ? list.active + 1 : list.active);
    keys.k = keys.ArrowUp = () => list.activate(inList ? list.active - 1 : list.active);
    if (event.target.matches("article")) keys.Enter = () => page.enter(at(list.active));
  }
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
}
