// Keeps a page up to date: the server sends the page's content again whenever it has changed.
"use strict";
const content = document.getElementById("content");
const connection = document.getElementById("connection");
let revision = document.body.dataset.revision;
const events = new EventSource(document.body.dataset.live);
events.onopen = () => { connection.textContent = "live"; };
events.onmessage = (event) => {
  if (event.lastEventId === revision) return;
  revision = event.lastEventId;
  const open = [...content.querySelectorAll("details")].map((details) => details.open);
  const chosen = [...content.querySelectorAll("input:checked")].map((input) => input.id);
  content.innerHTML = event.data;
  chosen.forEach((id) => { const input = document.getElementById(id); if (input) input.checked = true; });
  content.querySelectorAll("details").forEach((details, index) => { details.open = open[index] ?? false; });
};
events.onerror = () => { connection.textContent = "connection lost, trying again"; };
