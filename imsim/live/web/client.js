// The reference client of docs/protocol.md: one device of one user, without a DOM or dependencies. It keeps everything
// in memory: a reloaded page is a new device, which fetches its conversations again. It does not enter chatrooms.
const SEND_ATTEMPTS = 4, GAP_WAIT = 3000, PING_AFTER = 30000, LOGIN_TIMEOUT = 10000; // ms
const RECONNECT_MIN = 500, RECONNECT_MAX = 30000; // ms: bounds of the random pause before a new connection
const NEWEST = 50; // messages of each conversation that the first sync brings; `older` fetches the others on demand
const RETRIED = ["unavailable", "rate_limited", "busy", "gap"]; // codes of requests that can succeed later
const SILENT = /^(recall|edit|apply|reject|resolve|friend_.+)$/; // events that are not shown as messages
const now = () => performance.now();
export const randomId = () => crypto.getRandomValues(new Uint32Array(4)).reduce((id, n) => id + n.toString(36), "");
export const isSilent = ({type, file}) => type === "notification" && SILENT.test(file?.event);
const isDue = ({due}) => due <= now();
// A conversation. `have` is the cursor: the device has everything up to this seq, except what the first sync `skipped`.
// `messages` has messages by seq, also after a gap; `outgoing` has own ones without an answer, or failed, in order.
class Conversation {
  constructor(id, user) {
    const [scene, first, second] = id.split(":"); // names contain no colon
    Object.assign(this, {id, scene, user, to: first === user && second ? second : first, outgoing: [], have: 0});
    Object.assign(this, {messages: new Map(), skipped: {seq: 0, unread: []}, state: {version: -1, readSeq: 0}});
  }
  get sending() { return this.outgoing.filter(({status}) => status === "sending"); } // without an answer
  get list() { return [...this.messages.values()].filter(({seq}) => seq <= this.have).sort((a, b) => a.seq - b.seq); }
  get last() { return this.list.findLast((m) => !m.recalled && !isSilent(m)); } // it orders the list of conversations
  get unread() { // the number of messages of others above the read mark, except notifications and recalled messages
    const {event, operator, targets} = this.messages.get(this.have)?.file ?? {}; // of the latest entry
    const isOut = {dismiss: true, leave: operator === this.user, kick: targets?.includes(this.user)}[event];
    const mark = isOut === true ? Infinity : this.state.readSeq; // nothing is unread after the end of the membership
    const counts = (m) => m.seq > mark && m.from !== this.user && m.type !== "notification" && !m.recalled;
    const above = (seq) => Math.min(seq, this.skipped.seq) - Math.min(seq, this.skipped.seq, mark);
    const skipped = this.skipped.unread.map(([first, last]) => above(last) - above(first - 1));
    return skipped.reduce((sum, count) => sum + count, this.list.filter(counts).length);
  }
  put(message) { // keeps a message of the log. If it is an own message without an answer, that proves that it is stored
    const own = this.outgoing.find(({idClient, from}) => idClient === message.idClient && from === message.from);
    const known = own ?? this.messages.get(message.seq);
    if ((known?.amended ?? 0) > (message.amended ?? 0)) return; // an older form of the message
    if (own) Object.assign(own, {status: "stored", latency: now() - own.sentAt});
    this.outgoing = this.outgoing.filter((other) => other !== own);
    for (const next of own ? this.outgoing : []) if (next.code === "gap") next.due = 0;
    this.messages.set(message.seq, Object.assign(known ?? {}, message, known?.delay && {delay: known.delay}));
    if (message.seq > this.have) this.apply(message);
  }
  apply({seq, type, file}) { // applies a notification about a message or the group; a second time changes nothing
    const {event, data = {}} = (type === "notification" && file) || {}, target = this.messages.get(data.seq);
    if (event === "create" || event === "configure") this.title = data.title ?? this.title;
    const change = event === "recall" ? {recalled: true, content: "", file: null} : {content: data.content};
    if (!target || !/^(recall|edit)$/.test(event) || (target.amended ?? 0) >= seq) return; // or fetched later
    Object.assign(target, target.recalled ? {} : change, {amended: seq});
  }
  advance(seq) { // moves the cursor to `seq`, and on over the messages that follow without a gap
    this.have = Math.max(this.have, seq);
    while (this.messages.has(this.have + 1)) this.apply(this.messages.get(++this.have));
  }
}
export class Client {
  // `getToken` returns a token or throws, with `isFinal` for ever. `onChange` gets a message if that has failed.
  constructor({url, user, device, getToken, onChange}) {
    Object.assign(this, {url, user, device, getToken, onChange, instance: randomId(), attempt: 0, failures: 0});
    Object.assign(this, {conversations: new Map(), requests: new Map(), lastNumber: 0}); // requests without an answer
    this.forget();
    this.timer = setInterval(() => this.tick(), 250);
    this.connect();
  }
  conversation(id) {
    return this.conversations.get(id) ?? this.conversations.set(id, new Conversation(id, this.user)).get(id);
  }
  with(user) { return this.conversation(`p2p:${[this.user, user].sort().join(":")}`); }
  get sending() { return [...this.conversations.values()].flatMap((each) => each.sending); }
  send({id: conversationId, scene, to}, fields) { // sends a message: its status becomes "stored" or "failed"
    this.retry({conversationId, scene, to, from: this.user, type: "text", idClient: randomId(), ...fields});
  }
  retry(message) { // sends a message again that has failed, under the same idClient: it may be stored all the same
    const conversation = this.conversation(message.conversationId);
    conversation.outgoing = [...conversation.outgoing.filter((other) => other !== message), message];
    Object.assign(message, {status: "sending", time: Date.now(), sentAt: now(), due: 0, tries: 0});
    this.tick();
    this.onChange();
  }
  change(conversation, event, data = {}, targets = []) { // sends a notification: an event such as "recall" or "invite"
    this.send(conversation, {type: "notification", file: {event, operator: this.user, targets, data}});
  }
  request(frame) { // sends a request, also repeatedly; returns a promise of the answer, which `rejected` rejects
    const number = ++this.lastNumber, {promise, resolve, reject} = Promise.withResolvers();
    this.requests.set(number, {frame: {...frame, number}, resolve, reject, due: 0});
    this.tick();
    return promise;
  }
  read({id, have, state}) { // moves the read mark to the end of the conversation, which the application has shown
    if (have > state.readSeq) this.request({op: "read", conversationId: id, seq: have}).catch(() => {});
    state.readSeq = Math.max(have, state.readSeq);
  }
  async older(conversation) { // fetches the latest page of the messages that the first sync has skipped
    const {id, skipped} = conversation;
    const {messages, more} = await this.request({op: "history", conversationId: id, first: 1, last: skipped.seq});
    for (const message of messages) conversation.put(message);
    skipped.seq = more ? messages[0].seq - 1 : 0;
  }
  stop(reason = "") {
    clearInterval(this.timer);
    this.enter("ended", reason);
    for (const entry of [...this.sending, ...this.requests.values()]) this.fail(entry, "ended", reason);
  }
  // --- the connection: "connecting", "online", "waiting" for the next attempt, or "ended"
  enter(state, reason = "") {
    const {socket} = this;
    Object.assign(this, {state, reason}, state !== "online" && {socket: null, isSynced: false});
    if (!this.socket) socket?.close(); // its late events have no effect
    this.onChange();
  }
  async connect() {
    this.enter("connecting");
    const failed = (error) => void (error.isFinal ? this.stop(error.message) : this.reconnect(error.message));
    this.token ??= await this.getToken().catch(failed);
    if (!this.token || this.state !== "connecting") return;
    const socket = (this.socket = new WebSocket(this.url)), {token, device, instance} = this;
    Object.assign(this, {lastReceived: now(), lastPing: 0, resync: 0});
    socket.onopen = () => this.put({op: "login", token, device, kind: "web", instance, attempt: ++this.attempt});
    socket.onclose = () => socket === this.socket && this.reconnect("connection lost");
    socket.onmessage = ({data}) => socket === this.socket && this.receive(JSON.parse(data));
  }
  reconnect(reason, retryAfter = 0) { // after a random pause (full jitter): its bound doubles with each failure
    this.enter("waiting", reason);
    const bound = Math.min(RECONNECT_MAX, RECONNECT_MIN * 2 ** this.failures++);
    setTimeout(() => this.state === "waiting" && this.connect(), 1000 * retryAfter + Math.random() * bound);
  }
  put(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
    this.lastSent = now();
  }
  receive(frame) {
    this.lastReceived = now();
    if (`on_${frame.op}` in this) this[`on_${frame.op}`](frame);
    else { this.requests.get(frame.number)?.resolve(frame); this.requests.delete(frame.number); } // or an unknown op
    this.onChange();
  }
  tick() { // does what is due
    const limit = this.state === "online" ? this.heartbeat : LOGIN_TIMEOUT;
    if (this.socket && now() - this.lastReceived > limit) this.reconnect("no answer");
    if (this.state !== "online") return;
    const quietSince = Math.max(this.lastPing, Math.min(this.lastSent, this.lastReceived));
    if (now() - quietSince > PING_AFTER) { this.lastPing = now(); this.put({op: "ping"}); }
    for (const r of this.requests.values()) if (isDue(r)) this.put(Object.assign(r, {due: now() + this.timeout}).frame);
    for (const message of this.sending.filter(isDue)) this.transmit(message);
    if (this.isSynced && this.syncAt <= now()) this.sync(); // a gap in a log has not closed
  }
  on_logged_in({log, heartbeat, windows: {recall = 120, answer = 5} = {}}) {
    if (this.log !== undefined && this.log !== log) this.forget(); // the server's data is not the data we know
    Object.assign(this, {log, failures: 0, wasLoggedIn: true, heartbeat: 1000 * heartbeat}); // times in ms
    Object.assign(this, {recallTime: 1000 * recall, timeout: 1000 * answer}); // timeout: without an answer
    for (const entry of [...this.sending, ...this.requests.values()]) entry.due = 0; // send all again
    this.enter("online");
    this.sync();
  }
  on_refused({code, reconnect, text, retryAfter}) {
    const hasExpired = code.includes("token") && this.wasLoggedIn; // the token has worked before: get a new one
    if (hasExpired) Object.assign(this, {token: null, wasLoggedIn: false});
    if (reconnect || hasExpired) this.reconnect(text || code, retryAfter);
    else this.stop(`${code}: ${text ?? ""}`);
  }
  // --- requests, sync and messages
  on_rejected({request, ref, code, text, retryAfter, number}) {
    const entry = request === "send" ? this.sending.find((m) => m.idClient === ref) : this.requests.get(number);
    if (!entry || !RETRIED.includes(code)) return entry && this.fail(entry, code, text);
    Object.assign(entry, {code, tries: 0, due: now() + (retryAfter ? 1000 * retryAfter : this.timeout)});
    // Each attempt counts for the rate limit. So the messages behind this one wait, too, and are sent one by one.
    if (retryAfter && !entry.frame) this.sending.forEach((m, i) => { m.due = now() + 1000 * retryAfter * (i + 1); });
  }
  fail(entry, code, text) { // ends a request or message that cannot succeed
    this.requests.delete(entry.frame?.number);
    if (entry.frame) return entry.reject(Object.assign(new Error(text || code), {code}));
    this.onChange(Object.assign(entry, {status: "failed", code, error: text || code}));
    for (const next of this.sending) if (next.code === "gap") next.due = 0;
    if (code === "timeout") this.sync(); // it brings the message if that is stored
  }
  sync() { // fetches everything that the device does not have, one page after the other
    this.requests.delete(this.syncing); // only the answer to the latest sync counts
    const {version, inbox, resync} = this, known = [...this.conversations.values()];
    const cursors = Object.fromEntries(known.filter(({have}) => have).map(({id, have}) => [id, have]));
    const stateVersion = Math.max(0, ...known.map(({state}) => state.version));
    Object.assign(this, {syncing: this.lastNumber + 1, isSynced: false, syncAt: Infinity});
    this.request({op: "sync", cursors, version, inbox, resync, stateVersion, newest: NEWEST})
      .catch(({code}) => { if (code === "ahead") { this.forget(); this.sync(); } });
  }
  forget() { // begins as a new device. Only own messages without an answer remain
    const old = this.conversations;
    Object.assign(this, {conversations: new Map(), version: 0, inbox: 0, syncing: 0, isSynced: false});
    for (const {id, outgoing} of old.values()) if (outgoing.length) this.conversation(id).outgoing = outgoing;
    for (const request of this.requests.values()) this.fail(request, "forgotten", "the server's data was set back");
  }
  on_page(page) {
    for (const {conversationId: id, ...skipped} of page.skipped ?? []) {
      if (!this.conversation(id).have) this.conversation(id).skipped = {unread: [], ...skipped};
      else { delete page.cursors[id]; Object.assign(page, {op: "page", inbox: this.inbox}); } // it began meanwhile
    }
    for (const message of page.messages) this.conversation(message.conversationId).put(message);
    for (const [id, cursor] of Object.entries(page.cursors)) this.advance(this.conversation(id), cursor);
    for (const state of page.states ?? []) this.apply(state);
    if (page.number !== this.syncing) return; // a late answer to an earlier sync: its messages are valid, too
    Object.assign(this, {inbox: page.inbox ?? 0, version: page.version || this.version});
    this.requests.delete(page.number);
    this.isSynced = page.op === "sync_done";
    if (!this.isSynced) this.sync();
  }
  on_sync_done(page) { this.on_page(page); }
  on_resync({number}) { if (number !== this.resync) Object.assign(this, {resync: number}).sync(); } // or a repetition
  async group(conversationId) { // fetches the state of a group, with a page of its members
    this.conversation(conversationId).title ??= ""; // until the answer
    const page = await this.request({op: "group", conversationId});
    this.conversation(conversationId).title = page.title ?? "";
    return page;
  }
  transmit(message) {
    const {conversationId, idClient, scene, to, type, content, file, tries, wasSent: resend} = message;
    if (tries === SEND_ATTEMPTS) return this.fail(message, "timeout", "no answer; it may be stored all the same");
    const {sending, state} = this.conversation(conversationId);
    const after = sending[sending.indexOf(message) - 1]?.idClient, shown = state.readSeq;
    this.put({op: "send", idClient, scene, to, type, content, file, resend, after, shown});
    Object.assign(message, {tries: tries + 1, wasSent: true, code: "", due: now() + this.timeout});
  }
  on_stored({op, ...stored}) {
    const conversation = this.conversation(stored.conversationId);
    const isOpen = conversation.outgoing.some(({idClient}) => idClient === stored.idClient);
    if (isOpen) this.arrive({...stored, from: this.user}); // its seq is 0 if the user may not see the conversation
  }
  on_push({message}) { this.arrive({...message, delay: Date.now() - message.time}); }
  arrive(message) {
    const conversation = this.conversation(message.conversationId);
    conversation.put(message);
    this.advance(conversation, 0);
    // If an earlier message is missing, it is probably on its way. But the log of a new member begins with a gap.
    const wait = conversation.have ? GAP_WAIT : 0;
    if (message.seq > conversation.have) this.syncAt = Math.min(this.syncAt, now() + wait);
  }
  advance(conversation, seq) { // moves the cursor, and acknowledges everything up to it
    conversation.advance(seq);
    const {id, have, scene, title} = conversation;
    if (have) this.put({op: "delivered", conversationId: id, seq: have});
    if (have && scene === "group" && title === undefined) this.group(id).catch(() => {}); // not in its log
  }
  on_notify({conversationId, seq}) { // a notice instead of a push
    if (seq <= this.conversation(conversationId).have) return this.advance(this.conversation(conversationId), 0);
    Object.assign(this, {syncAt: 0}).tick();
  }
  apply(state) { // keeps the read mark of a `read` that is on its way
    const conversation = this.conversation(state.conversationId), {version, readSeq} = conversation.state;
    if (state.version > version) conversation.state = {...state, readSeq: Math.max(readSeq, state.readSeq)};
  }
  on_state({state, state: {conversationId}}) {
    this.apply(state);
    this.put({op: "state_ack", conversationId, version: this.conversation(conversationId).state.version});
  }
}
