// The user interface of the chat page. No text is parsed as HTML: all texts become text nodes.
import {Client, isSilent, randomId} from "./client.js";
const EVENTS = {__proto__: null, create: "created the group with", configure: "changed the group", invite: "added",
  join: "joined", accept: "accepted", leave: "left", kick: "removed", dismiss: "dismissed the group", mute: "muted"};
const MARKS = {sending: "sending …", stored: "✓ stored", delivered: "✓✓ delivered", read: "✓✓ read", failed: "failed"};
const hasOneClock = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname); // the server is on this computer
const $ = (id) => document.getElementById(id), chat = () => client.conversation(current); // the open conversation
const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; node.hidden = !text; };
const names = (text) => [...new Set(text.split(/[\s,]+/).filter(Boolean))];
const clock = (time) => new Date(time).toLocaleTimeString([], {timeStyle: "short"});
const initial = (text) => [...text][0].toUpperCase();
let client, key, current, timer; // `current` is the id of the open conversation
async function getToken(user) {
  const headers = {Authorization: `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`}, method = "POST";
  const response = await fetch(`${key ? "" : "/web"}/token?${new URLSearchParams({user})}`, key ? {headers} : {method});
  const {token, error} = await response.json(), isWrong = key && response.status === 401;
  $("key").hidden &&= response.status !== 401; // the server wants its key
  if (token) return token;
  throw Object.assign(new Error(isWrong ? "wrong key" : error), {isFinal: response.status < 500});
}
function logIn(user) {
  const url = location.origin.replace("http", "ws"), device = `web-${randomId()}`;
  client = new Client({url, user, device, getToken: () => getToken(user), onChange});
  history.replaceState(null, "", `/?user=${encodeURIComponent(user)}`);
}
function onChange(failed) {
  if (failed) setText($("error"), `${failed.file?.event ?? "message"}: ${failed.error}`);
  timer ??= setTimeout(render, 16); // once for all changes of this moment
}
function show(list, items, idOf, view) { // shows the items in a list; elements of known items stay, with the focus
  const old = new Map([...list.children].map((node) => [node.key, node]));
  const nodes = items.map((item) => {
    const node = old.get(idOf(item)) ?? $(`${list.id}-item`).content.firstElementChild.cloneNode(true);
    const {data, ...texts} = view(item);
    Object.assign(Object.assign(node, {item, key: idOf(item)}).dataset, data);
    for (const [name, text] of Object.entries(texts)) setText(node.querySelector(`.${name}`), text);
    return node;
  });
  for (const node of old.values()) if (!nodes.includes(node)) node.remove();
  nodes.forEach((node, i) => node === list.children[i] || list.insertBefore(node, list.children[i] ?? null));
}
const titleOf = ({scene, title, to}) => (scene === "system" ? "System messages" : title || to);
function textOf({type, content, recalled, file, from}) {
  const {event = "", targets = []} = file ?? {};
  if (recalled) return `${from} recalled a message`;
  if (type === "notification") return `${from} ${EVENTS[event] ?? event} ${targets.join(", ")}`;
  return content || `[${type.replace("_", " ")}] ${file?.title ?? file?.url ?? ""}`;
}
function viewConversation(conversation) {
  const {id, last, unread, state: {pinned = false}, scene} = conversation, name = titleOf(conversation);
  const author = scene === "group" && last?.type !== "notification" ? `${last?.from}: ` : "";
  return {data: {open: id === current, pinned}, avatar: initial(name), name, time: last ? clock(last.time) : "",
    preview: last ? author + textOf(last) : "", unread: unread ? String(unread) : ""};
}
function viewMessage(message) {
  const {scene, state} = client.conversation(current), {from, seq, time, type, recalled, latency, delay} = message;
  const isNotice = recalled || type === "notification", isOwn = from === client.user && !isNotice;
  const peer = seq <= state.peerReadSeq ? "read" : seq <= state.peerDeliveredSeq ? "delivered" : "stored"; // p2p only
  const status = message.status === "failed" || (isOwn && !seq) ? message.status : isOwn ? peer : "";
  const ms = isOwn ? latency : hasOneClock && !isNotice ? delay : NaN; // two clocks would not agree
  const canRecall = isOwn && seq && Date.now() < time + client.recallTime;
  return {data: {flow: isNotice ? "notice" : isOwn ? "out" : "in", status}, text: textOf(message), time: clock(time),
    author: isOwn || isNotice || scene === "p2p" ? "" : from, latency: ms >= 0 ? `${Math.round(ms)} ms` : "",
    mark: MARKS[status] ?? "", retry: status === "failed" ? "Send again" : "", recall: canRecall ? "Recall" : "",
    readers: isOwn && seq && scene === "group" ? message.readers ?? "Read by …" : ""};
}
function render() {
  timer = null;
  const {state, reason, isSynced, user, conversations} = client, isRefused = state === "ended" && !client.log;
  const waiting = `offline: ${reason}; trying again`, online = isSynced ? "online" : "synchronizing …";
  setText($("state"), {connecting: "connecting …", waiting, online, ended: reason}[state]);
  $("state").dataset.state = state;
  setText($("login-error"), isRefused ? reason : "");
  setText($("me"), user);
  setText($("my-avatar"), initial(user));
  const conversation = conversations.get(current), box = $("scroll");
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 50 || box.conversation !== current;
  if (conversation?.unread && isAtEnd && document.hasFocus()) client.read(conversation);
  const isListed = (each) => each.last?.seq > (each.state.hiddenSeq ?? 0) || each.outgoing[0] || each === conversation;
  const listed = [...conversations.values()].filter(isListed), timeOf = ({last}) => last?.time ?? Infinity;
  listed.sort((a, b) => (b.state.pinned ?? 0) - (a.state.pinned ?? 0) || timeOf(b) - timeOf(a));
  show($("conversations"), listed, ({id}) => id, viewConversation);
  const total = listed.reduce((sum, each) => sum + (each.state.muted ? 0 : each.unread), 0);
  document.title = `${total ? `(${total}) ` : ""}${user} · imsim`;
  document.body.dataset.view = isRefused ? "login" : conversation ? "conversation" : "list";
  if (!conversation) return;
  const {scene, skipped, state: {pinned = false}} = conversation;
  setText($("title"), titleOf(conversation));
  setText($("avatar"), initial(titleOf(conversation)));
  Object.assign($("conversation").dataset, {scene, pinned, skipped: skipped.seq > 0});
  const messages = [...conversation.list, ...conversation.outgoing].filter((message) => !isSilent(message));
  show($("messages"), messages, ({from, idClient}) => `${from}/${idClient}`, viewMessage);
  if (isAtEnd) box.scrollTop = box.scrollHeight;
  box.conversation = current;
}
const open = ({id}) => { current = id; render(); $(id ? "text" : "new").focus(); };
const buttons = { // by id or class; the argument is the item of the list that the button is in
  back: () => open({id: null}),
  conversation: open,
  new: () => $("new-dialog").showModal(),
  close: () => document.querySelector("dialog[open]").close(),
  async group() {
    const {members, count} = await client.group(current);
    setText($("group-title"), `${titleOf(chat())}: ${count} members`);
    show($("members"), members, ({user}) => user, ({user, role = ""}) => ({avatar: initial(user), name: user, role}));
    $("group-dialog").showModal();
  },
  leave: () => { client.change(chat(), "leave"); buttons.close(); },
  older: () => client.older(chat()),
  pin: () => client.request({op: "set_conversation", conversationId: current, pinned: !chat().state.pinned}),
  retry: (message) => client.retry(message),
  recall: ({seq}) => client.change(chat(), "recall", {seq}),
  async readers(message) {
    const {read, members} = await client.request({op: "read_count", conversationId: current, seq: message.seq});
    message.readers = `Read by ${read} of ${members}`;
  },
};
const forms = {
  "login-form": ({user, key: field}) => { key = field.value; logIn(user.value); },
  "new-form": ({to, title}) => {
    const users = names(to.value).filter((name) => name !== client.user), isGroup = title.value || users.length > 1;
    const target = isGroup ? client.conversation(`group:g-${randomId()}`) : client.with(users[0] ?? client.user);
    if (isGroup) client.change(target, "create", {title: title.value || [client.user, ...users].join(", ")}, users);
    open(target);
  },
  "group-form": ({users}) => client.change(chat(), "invite", {}, names(users.value)),
  composer: ({text}) => text.value.trim() && client.send(chat(), {content: text.value}),
};
document.onclick = async ({target}) => {
  const button = target.closest("button"), action = buttons[button?.id] ?? buttons[button?.className];
  setText($("error"), "");
  try { await action?.(button.closest("li")?.item); } catch ({message}) { setText($("error"), message); }
  if (client) onChange();
};
document.onsubmit = (event) => {
  event.preventDefault();
  forms[event.target.id](event.target.elements);
  event.target.closest("dialog")?.close();
  if (event.target.id !== "login-form") event.target.reset();
};
$("text").onkeydown = (event) => { // Enter also ends the input of a Chinese word, which must not send the message
  const isEnd = event.key === "Enter" && !event.shiftKey && !event.isComposing;
  if (isEnd) { event.preventDefault(); $("composer").requestSubmit(); }
};
window.onerror = (error) => client?.stop(error); // an error of this script, or a frame that is not JSON
window.onfocus = () => client && onChange(); // what arrived in the meantime is read now
$("login-form").elements.user.value = new URLSearchParams(location.search).get("user");
if (location.search) $("login-form").requestSubmit();
