"use strict";

const EVERY_MS = 2000;
const RATES = [["delivery", "Delivery rate"], ["bounce", "Bounce rate"], ["deferral", "Deferral rate"], ["complaint", "Complaint rate"]];
const COUNTS = [["injection", "Injected"], ["delivery", "Delivered"], ["delay", "Deferred"], ["bounce", "Bounced"],
  ["expiry", "Expired"], ["complaint", "Complaints"], ["unsubscribe", "Unsubscribed"], ["rejection", "Rejected by us"]];
const STATES = [["active", "Active"], ["held", "Held"], ["watch", "Watched"], ["released", "Released"], ["expired", "Expired"]];

const at = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const percent = (rate) => rate === null ? "–" : (rate * 100).toFixed(rate < 0.01 ? 3 : 2) + " %";

// Text only ever enters the page as text: whatever an address or a provider is called, it is no markup.
function make(name, text, more = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  return Object.assign(element, more);
}

function row(cells) {
  const element = document.createElement("tr");
  element.append(make("th", cells[0], { scope: "row" }), ...cells.slice(1).map((cell) => make("td", cell)));
  return element;
}

function card(title, value, beside) {
  const element = document.createElement("div");
  element.append(make("dt", title), make("dd", value));
  if (beside) element.append(make("dd", beside, { className: "beside" }));
  return element;
}

function show(status) {
  const { lookup, clickhouse, last_24_hours: day, total } = status;
  const state = lookup.ready ? "Lookup is up to date" + (lookup.lag ? `, ${number.format(lookup.lag)} records behind` : "")
    : `Lookup is not ready: ${lookup.reason}`;
  say(state, lookup.ready);
  at("clickhouse").hidden = clickhouse.reachable;
  if (at("clickhouse").textContent !== clickhouse.message) at("clickhouse").textContent = clickhouse.message;
  const span = (of, kind, name, format) => of ? format(of[kind][name]) : "–";
  at("rates").replaceChildren(...RATES.map(([name, title]) =>
    card(title, span(day, "rates", name, percent), `total ${span(total, "rates", name, percent)}`)));
  at("counts").replaceChildren(...COUNTS.map(([name, title]) =>
    row([title, span(day, "counts", name, number.format), span(total, "counts", name, number.format)])));
  at("providers").replaceChildren(...status.providers.map((one) =>
    row([one.provider || "(unknown)", number.format(one.counts.delivery), ...RATES.map(([name]) => percent(one.rates[name]))])));
  at("states").replaceChildren(...STATES.map(([name, title]) => card(title, number.format(lookup.states[name]))));
}

function say(text, good) {
  if (at("state").textContent !== text) at("state").textContent = text;
  at("state").className = good ? "good" : "bad";
}

async function refresh() {
  try {
    const response = await fetch("/v1/status");
    const body = await response.json();
    if (!response.ok) throw new Error(body.error.message);
    show(body);
  } catch (error) {
    say(`No answer: ${error.message}`, false);
  }
  setTimeout(refresh, EVERY_MS);
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const query = new URLSearchParams({ tenant: form.get("tenant"), stream: form.get("stream") });
  let text;
  try {
    const response = await fetch(`/v1/suppressions/${encodeURIComponent(form.get("address"))}?${query}`);
    text = JSON.stringify(await response.json(), null, 2);
  } catch (error) {
    text = `No answer: ${error.message}`;
  }
  at("answer").textContent = text;
  at("answer").hidden = false;
});

refresh();
