// Puts the page together.

import { byId, fill } from "../common/dom.js";
import { themeButton } from "../common/theme.js";
import { Account } from "./account.js";
import { Alerts } from "./alerts.js";
import { Chart } from "./chart.js";
import { Detail } from "./detail.js";
import { fixed } from "./format.js";
import { Ladder } from "./ladder.js";
import { Link } from "./link.js";
import { Markets } from "./markets.js";
import { Notices } from "./notices.js";
import { beginPalette, chooseScheme, onPaletteChange, scheme } from "./palette.js";
import { Portfolios } from "./portfolios.js";
import { Quotes } from "./quotes.js";
import { Search } from "./search.js";
import { ServerPanel } from "./server.js";
import { Status } from "./status.js";
import { t, texts } from "./texts.js";
import { WatchList } from "./watchlist.js";

texts.apply();
beginPalette();

const notices = new Notices();
const account = new Account({ notices });
const link = new Link(() => account.token);
account.follow(link);
const quotes = new Quotes(link);
new Status({ link, quotes });
const markets = new Markets({ quotes, link });
const watchList = new WatchList({ quotes, link, notices, account });
const search = new Search({ watchList, account });
const views = [
  new Detail({ quotes, link }),
  new Chart({ quotes, link }),
  new Ladder({ quotes, link }),
  new Alerts({ account, link, quotes, notices }),
];
const chart = views[1];
new Portfolios({ account, link });
new ServerPanel();

watchList.onChoose((quote) => {
  for (const view of views) view.show(quote);
  showTitle();
});

account.onChange(() => {
  link.start();
  watchList.restart();
  markets.restart();
});

link.on("lost", ({ code, dropped }) => notices.show(t("updates_missed", { code, n: dropped })));

// The controls of the display.

const schemes = [...document.querySelectorAll("#colours button")];
for (const button of schemes) button.addEventListener("click", () => chooseScheme(button.dataset.scheme));
const showScheme = () => {
  for (const button of schemes) button.setAttribute("aria-pressed", String(button.dataset.scheme === scheme()));
  watchList.redraw();
};
onPaletteChange(showScheme);
showScheme();
addEventListener("resize", () => watchList.redraw());
fill(byId("display"), texts.button(), themeButton(texts));

// Keys of the whole page.

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, select, dialog") !== null;
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") search.focus();
  else if (["1", "2", "3", "4"].includes(event.key)) chart.choose(chart.ranges[Number(event.key) - 1]);
  else return;
  event.preventDefault();
});

// The tab says what is looked at, also from among the others.

function showTitle() {
  const quote = watchList.chosen === null ? null : quotes.get(watchList.chosen);
  const price = quote?.price ? `${fixed(quote.price.price, quote.decimals)} ` : "";
  const isOld = quote?.price && !quotes.isPriceCurrent(quote);
  const title = quote === null ? t("title") : `${isOld ? `(${t("value_stale")}) ` : ""}${price}${quote.name}`;
  if (document.title !== title) document.title = title;
}
link.onChange(showTitle);
quotes.on("facts", showTitle);
texts.onchange(showTitle);

link.start();
await watchList.begin();
document.documentElement.dataset.ready = "true";
