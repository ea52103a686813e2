namespace LayerSkip

open System
open System.Collections.Generic

/// How much a repeat takes: as much as it can and then less, as little, or as much without giving back.
[<RequireQualifiedAccess>]
type internal Greed =
    | Greedy
    | Lazy
    | Possessive

/// A regular expression over code points.
[<RequireQualifiedAccess>]
type internal Pattern =
    | One of CodePoints
    | Sequence of Pattern list
    | Choice of Pattern list
    | Repeat of Pattern * least: int * most: int * Greed
    | Look of Pattern * ahead: bool * negated: bool
    | Atomic of Pattern
    | LineStart
    | LineEnd
    | TextStart
    | TextEnd
    /// The end, or before a newline that ends the text.
    | LastLineEnd
    | Boundary of negated: bool

/// Reads regular expressions as tokenizers' Oniguruma does, in its Ruby syntax. What we do not read is refused by
/// name. Captures are groups like others, since nobody asks for them; back-references, conditions, absent groups and
/// calls are refused. 65,536 characters, 200 levels and 100,000 repeats are the most.
[<RequireQualifiedAccess>]
module internal PatternSyntax =
    let private refuse what = PatternReader.Refuse what

    /// More is no tokenizer's pattern.
    let private mostLength = 1 <<< 16

    // Oniguruma's own.
    let private mostRepeats = 100_000

    let private newline = CodePoints.single 0x0A

    [<Struct>]
    type private Modes = { IgnoresCase: bool; DotsAll: bool }

    // Two letters that one character stands for where case does not count, such as the sharp s.
    let private ligatures = set [ "ff"; "fi"; "fl"; "ss"; "st" ]

    let private withoutCase (set: CodePoints) : CodePoints =
        match CodePoints.tryIgnoreCase set with
        | Some folded -> folded
        | None -> refuse "case that does not count, of other letters than ASCII's"

    /// The quantifiers after an item, each of the whole before it.
    let rec private quantified (reader: PatternReader) (item: Pattern) : Pattern =
        let repeat least most isLazy isPossessive =
            let greed =
                if isLazy && reader.Take "?" then Greed.Lazy
                elif isPossessive && reader.Take "+" then Greed.Possessive
                else Greed.Greedy

            quantified reader (Pattern.Repeat(item, least, most, greed))

        if reader.Take "?" then
            repeat 0 1 true true
        elif reader.Take "*" then
            repeat 0 Int32.MaxValue true true
        elif reader.Take "+" then
            repeat 1 Int32.MaxValue true true
        elif reader.Is "{" then
            match reader.TryInterval(false, mostRepeats) with
            | None -> item
            // After a fixed count, a question mark is a quantifier of its own.
            | Some(struct (least, most, isFixed)) -> repeat least most (not isFixed) false
        else
            item

    let private letterOf (item: Pattern) : string =
        match item with
        | Pattern.One(CodePoints.Range(first, last)) when first = last && first < 0x80 ->
            string (Char.ToLowerInvariant(char first))
        | _ -> ""

    let private lineBreak =
        let point c = Pattern.One(CodePoints.single c)
        let ranges = [
            CodePoints.Range(0x0A, 0x0D)
            CodePoints.single 0x85
            CodePoints.Range(0x2028, 0x2029)
        ]
        let one = Pattern.One(CodePoints.Any ranges)
        Pattern.Atomic(Pattern.Choice [ Pattern.Sequence [ point 0x0D; point 0x0A ]; one ])

    // What a letter after a backslash asks for, that is no character.
    let private assertions = [
        "b", Pattern.Boundary false
        "B", Pattern.Boundary true
        "A", Pattern.TextStart
        "z", Pattern.TextEnd
        "Z", Pattern.LastLineEnd
        "R", lineBreak
    ]

    // How a group begins, after its question mark.
    let private groups: (string * (Pattern -> Pattern)) list = [
        ":", id
        "=", (fun inner -> Pattern.Look(inner, true, false))
        "!", (fun inner -> Pattern.Look(inner, true, true))
        "<=", (fun inner -> Pattern.Look(inner, false, false))
        "<!", (fun inner -> Pattern.Look(inner, false, true))
        ">", Pattern.Atomic
    ]

    /// Alternatives, up to a closing bracket or the end.
    let rec private choice (reader: PatternReader) (modes: Modes) : Pattern =
        reader.Deeper(fun () ->
            let alternatives = List<Pattern>()
            alternatives.Add(sequence reader modes)

            while reader.Take "|" do
                alternatives.Add(sequence reader modes)

            if alternatives.Count = 1 then
                alternatives[0]
            else
                Pattern.Choice(List.ofSeq alternatives))

    /// Items one after the other, each with its quantifiers.
    and private sequence (reader: PatternReader) (modes: Modes) : Pattern =
        let items = List<Pattern>()
        // As written, before case is ignored.
        let mutable before = ""

        while not (reader.AtEnd || reader.Is "|" || reader.Is ")") do
            let item = item reader modes
            let letter = letterOf item

            if modes.IgnoresCase && ligatures.Contains(before + letter) then
                refuse $"case that does not count, of {before}{letter}, which one character may stand for"

            before <- letter

            let item =
                match item with
                | Pattern.One set when modes.IgnoresCase -> Pattern.One(withoutCase set)
                | item -> item

            items.Add(quantified reader item)

        Pattern.Sequence(List.ofSeq items)

    /// A group's inside and its closing bracket.
    and private closed (reader: PatternReader) (modes: Modes) : Pattern =
        let inner = choice reader modes
        if not (reader.Take ")") then
            refuse "a group that is not closed"
        inner

    /// What stands after an opening bracket.
    and private group (reader: PatternReader) (modes: Modes) : Pattern =
        if not (reader.Take "?") then
            closed reader modes
        else
            match groups |> List.tryFind (fun (start, _) -> reader.Take start) with
            | Some(_, build) -> build (closed reader modes)
            | None when reader.Take "#" ->
                reader.Until ')' |> ignore
                Pattern.Sequence []
            | None when reader.Take "<" ->
                reader.Until '>' |> ignore
                closed reader modes
            | None -> moded reader modes true

    /// Of (?i-m) and its like.
    and private moded (reader: PatternReader) (modes: Modes) (isOn: bool) : Pattern =
        match char (min 0x7F (reader.Next())) with
        | 'i' -> moded reader { modes with IgnoresCase = isOn } isOn
        | 'm' -> moded reader { modes with DotsAll = isOn } isOn
        | '-' -> moded reader modes false
        | ':' -> closed reader modes
        // The rest of the group around it, alternatives and all.
        | ')' -> choice reader modes
        | c -> refuse $"(?{c}"

    /// One character, class, group or assertion, without quantifiers.
    and private item (reader: PatternReader) (modes: Modes) : Pattern =
        let point = reader.Next()

        match (if point < 0x80 then char point else '\uFFFF') with
        | '.' when modes.DotsAll -> Pattern.One(CodePoints.Range(0, 0x10FFFF))
        | '.' -> Pattern.One(CodePoints.Not newline)
        | '^' -> Pattern.LineStart
        | '$' -> Pattern.LineEnd
        | '[' -> Pattern.One(PatternClass.read reader)
        | '(' -> group reader modes
        | '*'
        | '+'
        | '?' -> refuse "a quantifier with nothing before it"
        | '\\' ->
            match PatternClass.trySet reader with
            | Some set -> Pattern.One set
            | None ->
                match assertions |> List.tryFind (fun (letter, _) -> reader.Take letter) with
                | Some(_, pattern) -> pattern
                | None -> Pattern.One(CodePoints.single (PatternClass.escaped reader))
        | _ -> Pattern.One(CodePoints.single point)

    /// The pattern, or what it has that we do not read.
    let parse (text: string) : Result<Pattern, string> =
        if text.Length > mostLength then
            Error $"more than {mostLength} characters"
        else
            try
                let reader = PatternReader text
                let pattern = choice reader { IgnoresCase = false; DotsAll = false }

                if reader.AtEnd then
                    Ok pattern
                else
                    Error "a bracket that closes no group"
            with PatternRefused what ->
                Error what
