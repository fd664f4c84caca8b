"use strict";
// What machines say of themselves only ever becomes text (textContent); the page's policy allows no other way.
const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const READY = new Map([[true, "yes"], [false, "no"]]);
const COLUMNS = [
  { name: "Namespace", text: (m) => m.namespace },
  { name: "Name", text: (m) => m.name },
  { name: "Group", text: (m) => m.group },
  { name: "Host", text: (m) => m.hostname },
  { name: "Identity", text: (m) => m.identity },
  { name: "Address", text: (m) => m.address },
  { name: "Version", text: (m) => m.versions.harness || "?" },
  { name: "Ready", text: (m) => ready(m), kind: "ready" },
  { name: "Reason", text: (m) => (m.message ? `${m.reason}: ${m.message}` : m.reason) },
  { name: "Last seen", text: (m) => seen(m), order: (m) => (m.heard_by ? Infinity : Date.parse(m.last_seen) || 0), title: (m) => m.last_seen || m.heard_by },
  { name: "Certificate left", text: (m) => left(m), order: (m) => Date.parse(m.certificate_until) || Infinity, title: (m) => m.certificate_until || "known to the replica that hears the machine" },
];
const machines = new Map(); // by namespace/name: {data, row, words}
const body = document.querySelector("tbody"), filter = document.getElementById("filter"), table = document.getElementById("machines");
let sorting = { column: 0, down: false }, ahead = 0, current = null, drawing = false;

const now = () => Date.now() + ahead;
function span(ms) {
  for (const [unit, size] of [["d", DAY], ["h", HOUR], ["m", MINUTE]]) if (ms >= 2 * size) return `${Math.floor(ms / size)}${unit}`;
  return `${Math.max(0, Math.floor(ms / SECOND))}s`;
}
const seen = (m) => (m.heard_by ? "now" : m.last_seen ? `${span(now() - Date.parse(m.last_seen))} ago` : "?");
const ready = (m) => READY.get(m.ready) || "unknown"; // of null: no replica hears it
function left(m) {
  if (!m.certificate_until) return "?";
  const ms = Date.parse(m.certificate_until) - now();
  return ms > 0 ? span(ms) : "ended";
}

function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function fill(machine) {
  const { data, row } = machine;
  row.dataset.ready = ready(data);
  COLUMNS.forEach((column, i) => {
    set(row.cells[i], column.text(data));
    if (column.title) row.cells[i].title = column.title(data);
  });
  machine.words = COLUMNS.map((column) => column.text(data)).join("\n").toLowerCase() + `\nready:${row.dataset.ready}`;
}

const keyOf = (data) => `${data.namespace}/${data.name}`;
function take(data) {
  const key = keyOf(data);
  let machine = machines.get(key);
  if (!machine) {
    const row = document.createElement("tr");
    row.tabIndex = -1;
    for (const column of COLUMNS) row.insertCell().className = column.kind || "";
    machine = { row };
    machines.set(key, machine);
  }
  machine.data = data;
  fill(machine);
}

function compare(a, b) {
  const column = COLUMNS[sorting.column], of = column.order || column.text;
  const [x, y] = [of(a.data), of(b.data)];
  const order = typeof x === "number" ? (x < y ? -1 : x > y ? 1 : 0) : x.localeCompare(y, "en", { numeric: true });
  return (sorting.down ? -order : order) || a.data.namespace.localeCompare(b.data.namespace) || a.data.name.localeCompare(b.data.name, "en", { numeric: true });
}

function draw() {
  drawing = false;
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  const sorted = [...machines.values()].sort(compare), words = filter.value.toLowerCase().split(/\s+/);
  let place = body.firstChild;
  let shown = 0, good = 0;
  for (const machine of sorted) {
    const hit = words.every((word) => machine.words.includes(word));
    machine.row.hidden = !hit;
    shown += hit;
    good += hit && machine.data.ready === true;
    if (machine.row === place) place = place.nextSibling;
    else body.insertBefore(machine.row, place);
  }
  table.setAttribute("aria-rowcount", shown + 1);
  set(document.getElementById("count"), `${shown} of ${machines.size} machines, ${good} ready`);
  if (focused && focused.isConnected && !focused.hidden && document.activeElement !== focused) focused.focus({ preventScroll: true });
  if (!current || !current.isConnected || current.hidden) reach(visible()[0]);
}

function soon() {
  if (!drawing) requestAnimationFrame(draw);
  drawing = true;
}

// Rows: one of them is in the order of Tab, the arrows go on from there.
const visible = () => [...body.rows].filter((row) => !row.hidden);
function reach(row, focus = false) {
  if (current) current.tabIndex = -1;
  current = row || null;
  if (!row) return;
  row.tabIndex = 0;
  if (focus) row.focus();
}

body.addEventListener("focusin", (event) => reach(event.target.closest("tr")));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const rows = visible(), at = rows.indexOf(document.activeElement), typing = document.activeElement === filter;
  const steps = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 20, PageUp: at - 20, Home: 0, End: rows.length - 1 };
  if (event.key === "/" && !typing) filter.focus();
  else if (event.key === "Escape" && (typing || at >= 0)) {
    filter.value = "";
    soon();
  } else if (event.key === "ArrowUp" && at === 0) filter.focus();
  else if (event.key in steps && (at >= 0 || (typing && event.key === "ArrowDown"))) reach(rows[Math.max(0, Math.min(rows.length - 1, steps[event.key]))], true);
  else return;
  event.preventDefault();
});
filter.addEventListener("input", soon);

COLUMNS.forEach((column, i) => {
  const head = document.createElement("th"), button = document.createElement("button");
  head.scope = "col";
  button.type = "button";
  button.textContent = column.name;
  button.addEventListener("click", () => {
    sorting = { column: i, down: sorting.column === i && !sorting.down };
    mark();
    soon();
  });
  head.append(button);
  document.querySelector("thead tr").append(head);
});
function mark() {
  document.querySelectorAll("th").forEach((head, i) => head.setAttribute("aria-sort", i !== sorting.column ? "none" : sorting.down ? "descending" : "ascending"));
}
mark();

const events = new EventSource("/events");
events.onmessage = (event) => {
  const news = JSON.parse(event.data);
  ahead = news.now * SECOND - Date.now();
  const known = new Set(news.rows.map(keyOf));
  const gone = news.all ? [...machines.keys()].filter((key) => !known.has(key)) : news.gone;
  for (const key of gone) {
    machines.get(key)?.row.remove();
    machines.delete(key);
  }
  news.rows.forEach(take);
  set(document.getElementById("link"), "");
  soon();
};
events.onerror = () => {
  set(document.getElementById("link"), "The controller does not answer; this is what it said last.");
  if (events.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5 * SECOND); // it refused: too many look
};
setInterval(() => machines.forEach(fill), 10 * SECOND);
