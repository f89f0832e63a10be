// Renews the page in place. Without it the page is the same, and reloads itself now and then.
"use strict";
(() => {
  const EVERY = 3000;
  const said = document.getElementById("said");
  let lost = false;

  function say(words) {
    said.textContent = words;
    said.hidden = !words;
  }

  // What has not changed is left alone, so that nothing flickers and no focus is lost.
  function renew(old, fresh) {
    const ids = (part) => [...part.children].map((child) => child.id).join(" ");
    if (old.outerHTML === fresh.outerHTML) return;
    const known = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
    if (known.size && ids(old) === ids(fresh)) {
      for (const next of [...fresh.children]) {
        const child = known.get(next.id);
        if (child.outerHTML === next.outerHTML || child.contains(document.activeElement)) continue;
        child.replaceWith(document.adoptNode(next));
      }
    } else if (!old.contains(document.activeElement)) {
      const same = (next) => known.get(next.id)?.outerHTML === next.outerHTML;
      old.replaceChildren(...[...fresh.childNodes].map((next) => (same(next) ? known.get(next.id) : document.adoptNode(next))));
    }
  }

  const words = (en, zh) => (document.documentElement.lang.startsWith("zh") ? zh : en);

  async function tick() {
    if (document.hidden) return;
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
    } catch {
      if (!lost) say(words("memtrap does not answer; what is shown is of ", "memtrap 没有应答；所示内容截至 ") + new Date().toLocaleTimeString());
      lost = true;
    }
  }

  document.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.target.querySelector("button");
    button.disabled = true;
    try {
      const answer = await fetch(event.target.action, { method: "POST", headers: { Accept: "application/json" } });
      const told = await answer.json();
      say(answer.ok ? `${told.target}, ${told.instance}${words(": the capture has begun", "：抓取已开始")}` : told.error);
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
