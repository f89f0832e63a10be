// Renews the page in place. Without it the page is the same, and reloads itself now and then.
"use strict";
(() => {
  const EVERY = 3000;
  const said = document.getElementById("said");
  let lost = false;
  let asking = false;
  let renewed = new Date();

  function say(words) {
    said.textContent = words;
    said.hidden = !words;
  }

  // Makes `old` like `fresh` and touches only what differs, so that nothing flickers and focus, selection and scrolling stay.
  function renew(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) {
      old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const named = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
    let at = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      // one with an id stays itself wherever it goes; others are told by their place
      const twin = next.id ? named.get(next.id) : at && !at.id && at.nodeName === next.nodeName ? at : undefined;
      if (!twin) {
        old.insertBefore(document.adoptNode(next), at);
        continue;
      }
      if (twin === at) at = at.nextSibling;
      else old.insertBefore(twin, at);
      renew(twin, next);
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  }

  const words = (en, zh) => (document.documentElement.lang.startsWith("zh") ? zh : en);

  async function tick() {
    // an answer that is late must not come after a later one
    if (document.hidden || asking) return;
    asking = true;
    try {
      const answer = await fetch("/live" + location.search, { cache: "no-store", signal: AbortSignal.timeout(10000) });
      if (!answer.ok) throw new Error(answer.status);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-part]")) {
        const fresh = page.querySelector(`[data-part="${part.dataset.part}"]`);
        if (fresh) renew(part, fresh);
      }
      if (lost) say("");
      lost = false;
      renewed = new Date();
    } catch {
      if (!lost) say(words("memtrap does not answer; what is shown is of ", "memtrap 没有应答；所示内容截至 ") + renewed.toLocaleTimeString());
      lost = true;
    } finally {
      asking = false;
    }
  }

  document.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.target.querySelector("button");
    button.disabled = true;
    try {
      const answer = await fetch(event.target.action, { method: "POST", headers: { Accept: "application/json" } });
      const told = await answer.json();
      say(answer.ok ? `${told.target}, ${told.instance}${words(": the capture has begun", "：采集已开始")}` : told.error);
    } catch {
      say(words("memtrap does not answer", "memtrap 没有应答"));
    }
    button.disabled = false;
    button.blur();
    tick();
    setTimeout(() => lost || say(""), 8000);
  });
  document.addEventListener("visibilitychange", tick);
  setInterval(tick, EVERY);
})();
