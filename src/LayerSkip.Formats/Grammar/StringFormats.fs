namespace LayerSkip

/// JSON Schema's `format` of strings, as regular expressions (RFC 3339 for dates, RFC 4122 for UUIDs). A text of ours has the
/// format; of some formats that are no regular language (uri, email) there are texts that we do not write.
[<RequireQualifiedAccess>]
module internal StringFormats =
    let private alternatives (items: string list) = $"""({String.concat "|" items})"""
    let private fours = "(0[48]|[2468][048]|[13579][26])"

    // Year 0 is none for .NET's calendar; leap days are every fourth year's, of centuries every fourth one's.
    let private date =
        let year = "(000[1-9]|00[1-9]\\d|0[1-9]\\d\\d|[1-9]\\d{3})"

        alternatives [
            year + "-(0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])"
            year + "-(0[469]|11)-(0[1-9]|[12]\\d|30)"
            year + "-02-(0[1-9]|1\\d|2[0-8])"
            $"(\\d\\d{fours}|{fours}00)-02-29"
        ]

    let private time = "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,7})?(Z|[+-](0\\d|1[0-3]):[0-5]\\d)"

    let private ipv4 =
        let part = "(\\d|[1-9]\\d|1\\d\\d|2[0-4]\\d|25[0-5])"
        $"{part}(\\.{part}){{3}}"

    // Eight groups, or fewer around one "::".
    let private ipv6 =
        let group = "[0-9a-fA-F]{1,4}"

        alternatives [
            $"({group}:){{7}}{group}"
            for before in 0..7 do
                for after in 0 .. 7 - before do
                    let groups count =
                        if count = 0 then
                            ""
                        else
                            $"{group}(:{group}){{{count - 1}}}"
                    groups before + "::" + groups after
        ]

    let private label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

    let private duration =
        let time = alternatives [ "\\d+H(\\d+M(\\d+S)?)?"; "\\d+M(\\d+S)?"; "\\d+S" ]

        let date = alternatives [ "\\d+Y(\\d+M(\\d+D)?)?"; "\\d+M(\\d+D)?"; "\\d+D" ]
        $"P({date}(T{time})?|T{time}|\\d+W)"

    let private all =
        Map [
            "date", date
            "time", time
            "date-time", $"{date}T{time}"
            "duration", duration
            "uuid", "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
            "email", $"[A-Za-z0-9_%%+-]+(\\.[A-Za-z0-9_%%+-]+)*@({label}\\.)+[A-Za-z]{{2,24}}"
            "hostname", $"{label}(\\.{label})*"
            "ipv4", ipv4
            "ipv6", ipv6
            "uri",
            "[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[1-9]\\d{0,3})?"
            + "(/([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*"
            + "(\\?([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?"
            + "(#([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?"
        ]

    /// The names that are known.
    let names: string list = List.ofSeq all.Keys

    // Made once they are asked for: some take a while.
    let private automata =
        all
        |> Map.map (fun _ pattern ->
            lazy (EcmaPattern.whole JsonText.character pattern |> JsonText.quoted |> Dfa.ofRegex))

    /// The automaton of strings of a format, quotes included.
    let tryFind (name: string) : Dfa option = automata.TryFind name |> Option.map _.Value

    // What every string of a format is, also those that we do not write.
    let private wider =
        Map [
            "date", "\\d{4}-\\d\\d-\\d\\d"
            "time", "\\d\\d:\\d\\d(:[^@/]*)?"
            "date-time", "\\d{4}-\\d\\d-\\d\\d[^0-9@/-][^@/]*"
            "duration", "P[0-9A-Z.,]*"
            "uuid", "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
            "email", ".*@.*"
            "hostname", "[^@:/]*"
            "ipv4", ipv4
            "ipv6", "[0-9a-fA-F:.]*:[0-9a-fA-F:.%]*"
            "uri", "[A-Za-z][A-Za-z0-9+.-]*:.*"
        ]
        |> Map.map (fun _ pattern ->
            lazy (EcmaPattern.whole JsonText.character pattern |> JsonText.quoted |> Dfa.ofRegex))

    /// An automaton of strings among which are all of a format.
    let tryFindWider (name: string) : Dfa option = wider.TryFind name |> Option.map _.Value
