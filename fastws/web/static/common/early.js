// A classic script for the <head>: it sets what the reader has chosen before anything is painted, which a module,
// being deferred, would do too late. theme.js and i18n.js change it later.
(() => {
  const root = document.documentElement;
  const stored = (name) => {
    try {
      return localStorage.getItem(name);
    } catch {
      return null; // storage is switched off
    }
  };
  const theme = stored("fastws.theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const lang = stored("fastws.lang") ?? navigator.language.slice(0, 2);
  root.lang = lang === "ko" ? "ko" : "en";
})();
