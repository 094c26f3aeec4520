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
  content.innerHTML = event.data;
  content.querySelectorAll("details").forEach((details, index) => { details.open = open[index] ?? false; });
};
events.onerror = () => { connection.textContent = "connection lost, trying again"; };
