/**
 * The demonstration: one room whose members see each other's cursors, messages and names.
 *
 * It shows what the client's events are for: cursors are cast (at most once), messages are published (acknowledged, kept, recovered),
 * names and hues are presence state. What others send is untrusted: it is checked for its shape, and shown as text only.
 */
import { Throng } from "/throng.js";

const CAST_EVERY_MS = 40;
const TICK_MS = 250;
const NAME_MAX = 24;
const TEXT_MAX = 500;
const ENTRIES_MAX = 1_000; // Beyond it the oldest go from the page.
const STEP = 0.02; // What an arrow key moves, of the board.
const LOSSES = {
  epoch_changed: "The server has started anew and remembers nothing. What was said in between is lost.",
  expired: "You were away for longer than the room remembers. Some messages are missing here.",
  window_exceeded: "More was said than the room remembers. Some messages are missing here.",
  slow_consumer: "Messages came faster than this connection takes them. Some are missing here.",
};
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

const $ = (id) => document.getElementById(id);
const pick = (list) => list[Math.floor(Math.random() * list.length)];
const isText = (value) => typeof value === "string" && value !== "";
const plural = (n, one) => `${n} ${one}${n === 1 ? "" : "s"}`;

function element(tag, { text, hue, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) made.textContent = text;
  if (hue !== undefined) made.style.setProperty("--hue", hue);
  made.append(...children);
  return made;
}

// ---- Who I am: kept for this tab ----

function remember(key, make) {
  try {
    const value = sessionStorage.getItem(key) ?? make();
    sessionStorage.setItem(key, value);
    return value;
  } catch {
    return make(); // Storage is forbidden: the tab has another name after a reload.
  }
}
const ADJECTIVES = ["Quiet", "Amber", "Early", "Northern", "Gentle", "Curious", "Silver", "Patient", "Bright", "Mossy"];
const ANIMALS = ["Heron", "Otter", "Lynx", "Finch", "Hare", "Marten", "Plover", "Badger", "Wren", "Salmon"];
const me = {
  name: remember("name", () => `${pick(ADJECTIVES)} ${pick(ANIMALS)}`),
  hue: Number(remember("hue", () => Math.floor(Math.random() * 24) * 15)),
};

/** What a member shows of itself, whoever wrote it. */
function person({ id, state }) {
  const { name, hue } = Object(state);
  return { id, name: isText(name) ? name.slice(0, NAME_MAX) : "Somebody", hue: Number.isFinite(hue) ? hue : 200 };
}

// ---- The connection ----

const listen = document.querySelector("meta[name=throng-listen]").content;
const host = listen.startsWith(":") ? location.hostname + listen : listen;
const scheme = location.protocol === "https:" ? "wss" : "ws";
const throng = new Throng(`${scheme}://${host}/ws`);
const room = throng.join(new URLSearchParams(location.search).get("room")?.slice(0, 64) || "demo", { state: me, echo: true });

let ticker;

function showConnection() {
  const { state, nextAttemptAt, code, attempt } = throng.status ?? throng;
  const waits = nextAttemptAt !== undefined;
  const words = {
    connected: "Connected",
    connecting: waits ? "No connection yet." : "Connecting…",
    resuming: waits ? "Connection lost." : "Reconnecting…",
    closed: `Disconnected for good${code ? ` (${code})` : ""}. Reload to begin anew.`,
  };
  $("connection").dataset.state = state;
  document.body.toggleAttribute("data-away", state !== "connected");
  if ($("connection-text").textContent !== words[state]) $("connection-text").textContent = words[state];
  clearInterval(ticker);
  const count = () => {
    const seconds = Math.max(0, Math.ceil((nextAttemptAt - Date.now()) / 1000));
    $("countdown").textContent = waits ? `Attempt ${attempt} in ${seconds} s` : "";
  };
  count();
  if (waits) ticker = setInterval(count, TICK_MS);
}

// ---- The log: in the order of the room, whatever comes first ----

const entries = []; // {place, item}, in order of place.
const shown = new Set(); // Ids of messages.
const pending = new Map(); // Own ones that have not come back yet.
let generation = 0; // Grows whenever the room's numbering begins anew.
let newest = 0; // The last offset of this generation.

function put(place, item) {
  const scroll = $("scroll");
  const follows = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
  let at = entries.length;
  while (at > 0 && (entries[at - 1].place[0] - place[0] || entries[at - 1].place[1] - place[1]) > 0) at--;
  $("messages").insertBefore(item, entries[at]?.item ?? null);
  entries.splice(at, 0, { place, item });
  while (entries.length > ENTRIES_MAX) entries.shift().item.remove();
  if (follows) scroll.scrollTop = scroll.scrollHeight;
}

function note(text, kind = "") {
  put([generation, newest], element("li", { text, className: `note ${kind}` }));
}

function showMessage({ data, offset, ts }) {
  const { id, text, name, hue } = Object(data);
  newest = Math.max(newest, offset);
  if (!isText(id) || !isText(text) || shown.has(id)) return;
  shown.add(id);
  pending.get(id)?.item.remove();
  pending.delete(id);
  const author = person({ state: { name, hue } });
  const when = new Date(ts);
  const time = element("time", { text: when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }), dateTime: when.toISOString() });
  const who = element("div", { className: "who", hue: author.hue }, author.name, time);
  put([generation, offset], element("li", {}, who, element("div", { text: text.slice(0, TEXT_MAX) })));
}

/** Reads what the room remembers, page by page. */
async function loadHistory() {
  let since;
  for (let more = true; more; ) {
    const page = await room.history({ since });
    page.publications.forEach(showMessage);
    more = page.more && page.publications.length > 0;
    since = more && { epoch: page.epoch, offset: page.publications.at(-1).offset };
  }
}

async function publish(message) {
  const fate = element("span", { className: "fate", text: "On its way…" });
  const item = element("li", {}, message.text, fate);
  const own = { item, message, acknowledged: false };
  pending.set(message.id, own);
  $("pending").append(item);
  $("scroll").scrollTop = $("scroll").scrollHeight;
  try {
    await room.publish(message);
    own.acknowledged = true;
  } catch ({ code }) {
    if (!pending.has(message.id)) return; // It has come back after all.
    const forget = () => (item.remove(), pending.delete(message.id));
    // With the same id: if the first one took effect, the second is not shown.
    const again = () => (forget(), publish(message));
    fate.textContent = code === "unknown" ? "The server was lost before it said whether it has this." : `Not sent (${code}).`;
    item.classList.add("failed");
    const button = (text, onclick) => element("button", { type: "button", text, onclick });
    item.append(button("Send again", again), button("Forget it", forget));
  }
}

function onGap({ reason, from }) {
  // What was acknowledged and can't come back any more is shown where it was said.
  for (const [id, { message, item, acknowledged }] of pending) {
    if (!acknowledged) continue;
    item.remove();
    showMessage({ data: message, offset: newest, ts: Date.now() });
    pending.delete(id);
  }
  note(LOSSES[reason] ?? "Some messages are missing here.", "loss");
  if (from === undefined) {
    generation++;
    newest = 0;
  }
  loadHistory().catch(() => note("What the room remembers could not be loaded.", "loss"));
}

// ---- People and their cursors ----

const cursors = new Map(); // Connection id → element.

function showPeople() {
  const people = [...room.members.values()].map(person);
  const mine = ({ id }) => id === throng.id;
  people.sort((a, b) => mine(b) - mine(a) || a.name.localeCompare(b.name) || (a.id < b.id ? -1 : 1));
  $("people").replaceChildren(
    ...people.map((each) => {
      const item = element("li", { text: each.name, hue: each.hue });
      if (mine(each)) {
        item.setAttribute("aria-current", "true");
        item.append(" ", element("small", { text: "(you)" }));
      }
      return item;
    }),
  );
  $("count").textContent = room.counts ? room.counts.connections : people.length || "";
  for (const [id, cursor] of cursors) {
    const member = room.members.get(id);
    if (member) label(cursor, person(member));
    else removeCursor(id);
  }
}

function label(cursor, { name, hue }) {
  cursor.style.setProperty("--hue", hue);
  cursor.firstChild.textContent = name;
}

function removeCursor(id) {
  cursors.get(id)?.remove();
  cursors.delete(id);
}

function showCursor(id, { x, y }) {
  const inside = (value) => Number.isFinite(value) && value >= 0 && value <= 1;
  if (!inside(x) || !inside(y)) return removeCursor(id);
  const member = room.members.get(id);
  if (!member) return; // It came before the news of who it is.
  if (!cursors.has(id)) {
    cursors.set(id, element("div", { className: id === throng.id ? "cursor own" : "cursor" }, element("span")));
    $("cursors").append(cursors.get(id));
  }
  const cursor = cursors.get(id);
  label(cursor, person(member));
  cursor.style.left = `${x * 100}%`;
  cursor.style.top = `${y * 100}%`;
}

let at = { x: 0.5, y: 0.5 };
let castTimer;

/** Casts where the pointer is by the end of the interval: the last place is always told. */
function point(place) {
  at = place;
  castTimer ??= setTimeout(() => {
    castTimer = undefined;
    room.cast(at);
  }, CAST_EVERY_MS);
}

function pointed({ clientX, clientY }) {
  const box = $("board").getBoundingClientRect();
  const share = (value, start, size) => Math.round(Math.min(1, Math.max(0, (value - start) / size)) * 1e4) / 1e4;
  removeCursor(throng.id);
  point({ x: share(clientX, box.left, box.width), y: share(clientY, box.top, box.height) });
}

function stepped(event) {
  const arrow = ARROWS[event.key];
  if (!arrow) return;
  event.preventDefault();
  const [x, y] = [at.x ?? 0.5, at.y ?? 0.5].map((value, axis) => Math.min(1, Math.max(0, value + arrow[axis])));
  point({ x, y });
  showCursor(throng.id, at); // The keyboard has no pointer of its own.
}

function pointedAway() {
  removeCursor(throng.id);
  point({ x: null, y: null });
}

// ---- Events ----

throng.on("state", showConnection);
throng.on("error", (error) => console.warn(error));
room.on("presence", showPeople);
room.on("message", (message) => {
  if (message.offset !== undefined) showMessage(message);
  else if (message.from.connection !== throng.id) showCursor(message.from.connection, Object(message.data));
});
room.on("recovered", ({ count }) => note(`Back again: ${count ? `${plural(count, "message")} caught up` : "nothing was missed"}.`));
room.on("gap", onGap);
room.on("state", ({ state, reason }) => state === "left" && note(`The room was left: ${reason}.`, "loss"));

$("board").addEventListener("pointermove", pointed);
$("board").addEventListener("pointerdown", pointed);
$("board").addEventListener("pointerleave", pointedAway);
$("board").addEventListener("keydown", stepped);
$("board").addEventListener("blur", pointedAway);
$("another").addEventListener("click", () => open(location.href, "_blank", "noopener,width=900,height=700"));
$("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  $("text").value = "";
  const id = crypto.getRandomValues(new Uint32Array(3)).join("-");
  if (text) publish({ id, text, ...me });
});
$("rename").addEventListener("submit", (event) => {
  event.preventDefault();
  me.name = $("name").value.trim().slice(0, NAME_MAX) || me.name;
  $("name").value = me.name;
  try {
    sessionStorage.setItem("name", me.name);
  } catch {
    // The name holds until the page is reloaded.
  }
  room.setState(me).catch(({ code }) => note(`Your name could not be told (${code}).`, "loss"));
});

$("name").value = me.name;
showConnection();
loadHistory().catch(() => note("What the room remembers could not be loaded.", "loss"));
