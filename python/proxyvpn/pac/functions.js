// What a PAC file may call: the functions of Netscape's "Navigator Proxy Auto-Config File Format" (1996) and Microsoft's
// IPv6 extensions (those that end in Ex). What needs the outside is Python's, by names that begin with pac: DNS, the
// machine's addresses, arithmetic on addresses, the clock.

"use strict";

(function (outside) {
    const DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    const MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

    function addresses(host) {
        const found = outside.resolve(String(host));
        return found === "" ? [] : found.split(";");
    }

    function firstIPv4(list) {
        return list.find((address) => !address.includes(":"));
    }

    // Take a last "GMT" off the arguments, and give the time as numbers.
    function moment(given) {
        const words = Array.from(given);
        const gmt = words.length > 0 && String(words[words.length - 1]).toUpperCase() === "GMT";
        if (gmt) {
            words.pop();
        }
        const date = new Date(outside.now());
        const get = (what) => date[(gmt ? "getUTC" : "get") + what]();
        return { words, get };
    }

    // Say whether `now` is between two moments of the same kind; an end before its beginning goes round.
    function between(now, begin, end) {
        const compare = (a, b) => a.map((value, n) => Math.sign(value - b[n])).find((sign) => sign !== 0) || 0;
        const after = compare(now, begin) >= 0;
        const before = compare(now, end) <= 0;
        return compare(begin, end) <= 0 ? after && before : after || before;
    }

    function index(list, word) {
        return list.indexOf(String(word).toUpperCase());
    }

    const visible = {
        isPlainHostName: (host) => !/[.:]/.test(String(host)),
        dnsDomainIs: (host, domain) => String(host).toLowerCase().endsWith(String(domain).toLowerCase()),
        dnsDomainLevels: (host) => String(host).split(".").length - 1,
        localHostOrDomainIs(host, full) {
            const [name, whole] = [String(host).toLowerCase(), String(full).toLowerCase()];
            return name === whole || (!name.includes(".") && whole.startsWith(name + "."));
        },

        isResolvable: (host) => firstIPv4(addresses(host)) !== undefined,
        isResolvableEx: (host) => addresses(host).length > 0,
        dnsResolve: (host) => firstIPv4(addresses(host)) || null,
        dnsResolveEx: (host) => addresses(host).join(";"),
        myIpAddress: () => firstIPv4(outside.mine.split(";")) || "127.0.0.1",
        myIpAddressEx: () => outside.mine,
        isInNet(host, network, mask) {
            const address = firstIPv4(addresses(host));
            return address !== undefined && outside.within(address, String(network) + "/" + String(mask));
        },
        isInNetEx: (address, prefix) => outside.within(String(address), String(prefix)),
        sortIpAddressList: (list) => outside.sorted(String(list)),
        getClientVersion: () => "1.0",

        // * is any text, ? any letter. Goes back to the last * only, so that no pattern takes long.
        shExpMatch(text, pattern) {
            const [t, p] = [String(text), String(pattern)];
            let [i, j, star, mark] = [0, 0, -1, 0];
            while (i < t.length) {
                if (j < p.length && p[j] === "*") {
                    [star, mark] = [j++, i];
                } else if (j < p.length && (p[j] === "?" || p[j] === t[i])) {
                    i++;
                    j++;
                } else if (star >= 0) {
                    [i, j] = [++mark, star + 1];
                } else {
                    return false;
                }
            }
            return /^\**$/.test(p.slice(j));
        },

        weekdayRange(...given) {
            const { words, get } = moment(given);
            const [begin, end] = [index(DAYS, words[0]), index(DAYS, words[words.length - 1])];
            return words.length > 0 && begin >= 0 && end >= 0 && between([get("Day")], [begin], [end]);
        },

        // Days, months and years, each alone or in this order, once or twice.
        dateRange(...given) {
            const { words, get } = moment(given);
            const parts = words.map((word) => {
                const number = Number(word);
                const month = index(MONTHS, word);
                return month >= 0 ? ["Month", month] : [number > 31 ? "FullYear" : "Date", number];
            });
            const twice = parts.length === 2 ? parts[0][0] === parts[1][0] : parts.length > 3;
            const half = twice ? parts.length / 2 : parts.length;
            const order = ["FullYear", "Month", "Date"].filter((kind) => parts.some((part) => part[0] === kind));
            const side = (list) => order.map((kind) => (list.find((part) => part[0] === kind) || [0, NaN])[1]);
            const [begin, end] = [side(parts.slice(0, half)), side(parts.slice(-half))];
            const fits = half > 0 && order.length === half && ![...begin, ...end].some(Number.isNaN);
            return fits && between(order.map(get), begin, end);
        },

        // Hours, minutes and seconds: h | h1, h2 | h1, m1, h2, m2 | h1, m1, s1, h2, m2, s2.
        timeRange(...given) {
            const { words, get } = moment(given);
            const numbers = words.map(Number);
            const half = numbers.length === 1 ? 1 : numbers.length / 2;
            if (![1, 2, 3].includes(half) || numbers.some(Number.isNaN)) {
                return false;
            }
            const now = ["Hours", "Minutes", "Seconds"].slice(0, half).map(get);
            return between(now, numbers.slice(0, half), numbers.slice(-half));
        },

        alert() {},
    };
    Object.assign(globalThis, visible);
})({
    resolve: pacResolve,
    within: pacWithin,
    sorted: pacSorted,
    now: pacNow,
    mine: pacMine,
});
for (const name of ["pacResolve", "pacWithin", "pacSorted", "pacNow", "pacMine"]) {
    delete globalThis[name];
}
