namespace LayerSkip

open System
open System.Collections.Generic
open System.Diagnostics
open System.Text
open System.Text.RegularExpressions

/// What a text is searched for: the start and end of each match, from the left. A match of nothing parts a text too.
[<NoEquality; NoComparison>]
type internal TextPattern = { Find: string -> List<struct (int * int)> }

/// Patterns of tokenizer.json: regular expressions over code points, and plain texts. What would match for longer
/// than seconds is an error, as a pattern and a text from anywhere may backtrack without end.
[<RequireQualifiedAccess>]
module internal TextPattern =
    /// A pattern that needs more for one match is one that backtracks without end. Good ones take a microsecond.
    let private patience = TimeSpan.FromSeconds 2.0

    /// And for all matches of a text, by its length.
    let private patienceOf (text: string) =
        2.0 * patience + TimeSpan.FromMicroseconds(10.0 * float text.Length)

    /// The patterns right within a pattern.
    let private inner (pattern: Pattern) : Pattern list =
        match pattern with
        | Pattern.Sequence patterns
        | Pattern.Choice patterns -> patterns
        | Pattern.Repeat(inner, _, _, _)
        | Pattern.Look(inner, _, _)
        | Pattern.Atomic inner -> [ inner ]
        | Pattern.One _
        | Pattern.LineStart
        | Pattern.LineEnd
        | Pattern.TextStart
        | Pattern.TextEnd
        | Pattern.LastLineEnd
        | Pattern.Boundary _ -> []

    /// The classes that it tells characters apart by.
    let rec private sets (pattern: Pattern) : CodePoints list =
        match pattern with
        | Pattern.One set -> [ set ]
        | Pattern.Boundary _ -> [ CodePoints.word ]
        | pattern -> List.collect sets (inner pattern)

    /// In .NET's syntax, with the meaning that Oniguruma gives it.
    let rec private write (standIns: StandIns option) (pattern: Pattern) : string =
        let write = write standIns

        match pattern with
        | Pattern.One set -> PatternClasses.write standIns set
        | Pattern.Sequence patterns -> patterns |> List.map write |> String.concat ""
        | Pattern.Choice patterns -> patterns |> List.map write |> String.concat "|" |> sprintf "(?:%s)"
        | Pattern.Repeat(inner, least, most, greed) ->
            let inner =
                match inner with
                | Pattern.One _ -> write inner
                | inner -> $"(?:{write inner})"

            let times =
                match least, most with
                | 0, 1 -> "?"
                | 0, Int32.MaxValue -> "*"
                | 1, Int32.MaxValue -> "+"
                | least, Int32.MaxValue -> $"{{{least},}}"
                | least, most -> $"{{{least},{most}}}"

            match greed with
            | Greed.Greedy -> inner + times
            | Greed.Lazy -> inner + times + "?"
            | Greed.Possessive -> $"(?>{inner}{times})"
        | Pattern.Look(inner, ahead, negated) ->
            let direction = if ahead then "" else "<"
            let sign = if negated then "!" else "="
            $"(?{direction}{sign}{write inner})"
        | Pattern.Atomic inner -> $"(?>{write inner})"
        // Of a newline that ends the text no line begins.
        | Pattern.LineStart -> @"(?:\A|(?<=\n)(?!\z))"
        | Pattern.LineEnd -> "(?m:$)"
        | Pattern.TextStart -> @"\A"
        | Pattern.TextEnd -> @"\z"
        | Pattern.LastLineEnd -> @"\Z"
        | Pattern.Boundary negated ->
            let word = PatternClasses.write standIns CodePoints.word
            let same, other = (if negated then "=", "!" else "!", "=")
            $"(?:(?<={word})(?{same}{word})|(?<!{word})(?{other}{word}))"

    /// Whether the engine that never backtracks can match it.
    let rec private isRegular (pattern: Pattern) : bool =
        match pattern with
        | Pattern.Repeat(_, _, _, Greed.Possessive)
        | Pattern.Look _
        | Pattern.Atomic _
        | Pattern.Boundary _
        | Pattern.LineStart -> false
        | pattern -> List.forall isRegular (inner pattern)

    /// Whether a repeat has a repeat or a choice within, so that there may be very many ways to the same match.
    let rec private isNested (within: bool) (pattern: Pattern) : bool =
        match pattern with
        | Pattern.Repeat(inner, least, most, _) ->
            (within && least <> most) || isNested (within || most > 1) inner
        | Pattern.Choice patterns when within && patterns.Length > 1 -> true
        | pattern -> List.exists (isNested within) (inner pattern)

    let private engine (pattern: Pattern) (text: string) : Regex =
        let backtracking () = Regex(text, RegexOptions.CultureInvariant ||| RegexOptions.Compiled, patience)

        if isNested false pattern && isRegular pattern then
            try
                Regex(text, RegexOptions.CultureInvariant ||| RegexOptions.NonBacktracking, patience)
            // It is too big for that engine.
            with :? NotSupportedException ->
                backtracking ()
        else
            backtracking ()

    /// A text without surrogates, and where each of its characters stands in the given one.
    let private shadow (standIns: StandIns) (text: string) : struct (string * int[]) =
        let shadow = StringBuilder text.Length
        let places = List<int> text.Length
        let mutable at = 0

        while at < text.Length do
            places.Add at

            match Rune.TryGetRuneAt(text, at) with
            | true, rune when rune.Utf16SequenceLength = 2 ->
                shadow.Append(StandIns.ofRune standIns rune) |> ignore
                at <- at + 2
            | true, _ ->
                shadow.Append text[at] |> ignore
                at <- at + 1
            | _ ->
                shadow.Append '\uFFFD' |> ignore
                at <- at + 1

        places.Add text.Length
        struct (shadow.ToString(), places.ToArray())

    let private matches (regex: Regex) (text: string) (place: int -> int) : List<struct (int * int)> =
        let found = List<struct (int * int)>()
        let allowed = patienceOf text
        let started = Stopwatch.GetTimestamp()
        let mutable last = -1

        for one in regex.EnumerateMatches(text.AsSpan()) do
            // Nothing is found where a match has just ended.
            if one.Length > 0 || one.Index <> last then
                found.Add(struct (place one.Index, place (one.Index + one.Length)))

            last <- one.Index + one.Length

            if found.Count % 1024 = 0 && Stopwatch.GetElapsedTime started > allowed then
                raise (RegexMatchTimeoutException())

        found

    let private hasSurrogate (text: string) = text.AsSpan().IndexOfAnyInRange('\uD800', '\uDFFF') >= 0

    /// Reads a regular expression written for tokenizers' Oniguruma; `path` is for messages. A pattern that we do not
    /// read is Unsupported. `Find` may throw LayerSkipException, where matching does not end or a text has characters
    /// above U+FFFF that the pattern tells apart too finely; indices count UTF-16 units.
    let expression (path: string) (source: string) : Result<TextPattern, LayerSkipError list> =
        let unsupported what =
            Check.unsupported
                $"{path}: {what} in the pattern {source}"
                "use a tokenizer with another pattern, or give the prompt as ids"

        match PatternSyntax.parse source with
        | Error what -> unsupported what
        | Ok pattern ->
            let build standIns = engine pattern (write standIns pattern)

            let forSurrogates =
                lazy
                    (StandIns.tryBuild (sets pattern)
                     |> Option.map (fun standIns -> standIns, build (Some standIns)))

            try
                let plain = build None

                let find (text: string) =
                    try
                        if not (hasSurrogate text) then
                            matches plain text id
                        else
                            match forSurrogates.Value with
                            | Some(standIns, regex) ->
                                let struct (shadow, places) = shadow standIns text
                                matches regex shadow (fun i -> places[i])
                            | None -> unsupported "so many ranges above U+FFFF" |> Check.getOrRaise
                    with :? RegexMatchTimeoutException ->
                        let why =
                            $"no end to matching this text within {patience.TotalSeconds} s; use a tokenizer with another pattern than {source}, or give the prompt as ids"

                        Check.throw (LayerSkipError.BadFile(path, why))

                Ok { Find = find }
            // .NET's own limits.
            with :? ArgumentException as e ->
                unsupported e.Message

    /// A text as it stands. Nothing is found of an empty one.
    let literal (sought: string) : TextPattern =
        let find (text: string) =
            let found = List<struct (int * int)>()
            let next (start: int) =
                if sought = "" then
                    -1
                else
                    text.IndexOf(sought, start, StringComparison.Ordinal)
            let mutable at = next 0

            while at >= 0 do
                found.Add(struct (at, at + sought.Length))
                at <- next (at + sought.Length)

            found

        { Find = find }

    /// The text with `content` in place of each match.
    let replace (found: List<struct (int * int)>) (content: string) (text: string) : string =
        if found.Count = 0 then
            text
        else
            let replaced = StringBuilder()
            let mutable start = 0

            for struct (first, stop) in found do
                replaced.Append(text, start, first - start).Append content |> ignore
                start <- stop

            replaced.Append(text, start, text.Length - start).ToString()
