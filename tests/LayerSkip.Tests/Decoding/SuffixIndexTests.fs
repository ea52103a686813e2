module LayerSkip.Tests.SuffixIndexTests

open System
open System.Diagnostics
open System.Threading.Tasks
open Expecto
open FsCheck
open LayerSkip

let private ending length (text: int[]) = text[max 0 (text.Length - length) ..]

/// Where a context ends within a text, but for the text's last token, which nothing follows.
let private places (context: int[]) (text: int[]) = [
    for last in context.Length - 1 .. text.Length - 2 do
        if text[last - context.Length + 1 .. last] = context then
            last
]

/// The draft as it is defined, of every place of `texts` looked at again and again: a text of the past ends in -1.
let private defined longest ahead (texts: int[][]) (text: int[]) : SuffixDraft =
    let followers context = [
        for number, source in Array.indexed texts do
            for place in places context source -> source[place + 1], (number, place)
    ]

    let matched =
        Seq.init (min longest text.Length) (fun shorter -> min longest text.Length - shorter)
        |> Seq.tryFind (fun length -> not (followers (ending length text)).IsEmpty)
        |> Option.defaultValue 0

    let rec draft context product made =
        let followed = followers (ending longest context)

        if List.length made = min ahead matched || followed.IsEmpty then
            made
        else
            let token, (times, _) =
                followed
                |> List.groupBy fst
                |> List.map (fun (token, all) -> token, (all.Length, all |> List.map snd |> List.max))
                |> List.maxBy snd

            let share = float times / float followed.Length

            if token < 0 || product * share < SuffixIndex.leastProbability then
                made
            else
                draft
                    (Array.append context [| token |])
                    (product * share)
                    ((token, share, product * share) :: made)

    let made =
        if matched = 0 then
            []
        else
            draft (ending matched text) 1.0 []

    {
        Matched = matched
        Tokens = [| for token, _, _ in List.rev made -> token |]
        Shares = [| for _, share, _ in List.rev made -> share |]
        Score = List.rev made |> List.sumBy (fun (_, _, product) -> product)
    }

/// Few tokens, so that they repeat.
let private few (kinds: byte) (tokens: byte[]) =
    tokens |> Array.map (fun token -> int token % (1 + int kinds % 4))

let private memory (text: int[]) = ReadOnlyMemory text
let private indexOf (text: int[]) = SuffixIndex.append (memory text) SuffixIndex.empty

/// Texts of the past, as they stand in a tree.
let private ended (texts: int[][]) = texts |> Array.map (fun text -> Array.append text [| SuffixTree.End |])

let private pastOf limit (texts: int[][]) =
    let past = PastTexts limit

    for text in texts do
        past.Add(ReadOnlySpan text)

    past

[<Tests>]
let tests =
    testList "suffix index" [
        testProperty "drafts what most often followed the longest ending, as it is defined"
        <| fun (tokens: byte[]) kinds (PositiveInt ahead) (PositiveInt longest) ->
            let text = few kinds tokens
            let ahead, longest = 1 + ahead % 9, 1 + longest % 6
            Expect.equal
                (SuffixIndex.lookup ahead (indexOf text))
                (defined 64 ahead [| text |] text)
                "of the longest"

            // With short ones the texts are longer than the longest match.
            let tree = SuffixTree(longest, 0)
            Array.iter tree.Append text

            Expect.equal
                (SuffixIndex.draftAfter ahead tree.Ending tree)
                (defined longest ahead [| text |] text)
                $"of {longest}"

        testProperty "past texts draft as defined, and a draft ends where theirs did"
        <| fun (texts: byte[][]) (tokens: byte[]) kinds (PositiveInt ahead) (PositiveInt longest) ->
            let text = few kinds tokens
            let texts = texts |> Array.map (few kinds) |> Array.filter (Array.isEmpty >> not)
            let ahead, longest = 1 + ahead % 9, 1 + longest % 6
            let past = pastOf 100_000 texts
            Expect.equal
                (past.Lookup(ahead, ReadOnlySpan text))
                (defined 64 ahead (ended texts) text)
                "of the longest"
            let tree = SuffixTree(longest, 0)

            for text in texts do
                Array.iter tree.Append text
                tree.Close()

            Expect.equal
                (SuffixIndex.draftAfter ahead (tree.Find(ReadOnlySpan text)) tree)
                (defined longest ahead (ended texts) text)
                $"of {longest}"

        testProperty "pieces come to what the whole does, and an old index reads what it did"
        <| fun (pieces: byte[][]) kinds (other: byte[]) ->
            let pieces = pieces |> Array.map (few kinds)
            let grown =
                pieces
                |> Array.scan (fun index piece -> SuffixIndex.append (memory piece) index) SuffixIndex.empty
            let texts = pieces |> Array.scan Array.append [||]

            // The last first: the others have then been overtaken, and one of them grows another way.
            for index, text in Array.rev (Array.zip grown texts) do
                let expected = SuffixIndex.lookup 8 (indexOf text)
                Expect.equal (SuffixIndex.lookup 8 index) expected $"%A{text}"
                let elsewhere = SuffixIndex.append (memory (few kinds other)) index
                let whole = Array.append text (few kinds other)
                Expect.equal
                    (SuffixIndex.lookup 8 elsewhere)
                    (SuffixIndex.lookup 8 (indexOf whole))
                    "grown otherwise"
                Expect.equal (SuffixIndex.lookup 8 index) expected "as before"

        testProperty "drafts after drafts come from the text alone, whatever they are"
        <| fun (tokens: byte[]) (drafts: byte[]) kinds (PositiveInt ahead) ->
            let text, drafts = few kinds tokens, few kinds drafts

            Expect.equal
                (SuffixIndex.lookupAfter (memory drafts) (1 + ahead % 9) (indexOf text))
                (defined 64 (1 + ahead % 9) [| text |] (Array.append text drafts))
                $"%A{text} and then %A{drafts}"

        testProperty "goes on with a text that goes on, and begins anew with another"
        <| fun (first: byte[]) (second: byte[]) kinds ->
            let first, second = few kinds first, few kinds second
            let index = SuffixIndex.ofText (memory first) SuffixIndex.empty

            for text in [ Array.append first second; second; first ] do
                let made = SuffixIndex.ofText (memory text) index
                Expect.equal made.Count text.Length "tokens"
                Expect.equal (SuffixIndex.lookup 8 made) (SuffixIndex.lookup 8 (indexOf text)) $"%A{text}"

        testProperty "past texts hold the newest, as if there had been no others"
        <| fun (texts: byte[][]) (tokens: byte[]) kinds (PositiveInt limit) ->
            let limit = 1 + limit % 40
            let texts = texts |> Array.map (few kinds)
            let past = pastOf limit texts
            Expect.isLessThanOrEqual past.Count limit "tokens"
            Expect.equal past.Count (past.Texts |> Array.sumBy _.Length) "tokens"

            // The oldest of them, or its ending, and all after it.
            let given =
                texts
                |> Array.filter (Array.isEmpty >> not)
                |> Array.map (ending (max 1 (limit - limit / 4)))
            Expect.equal past.Texts (given[given.Length - past.Texts.Length ..]) "the newest"

            match Array.tryItem (given.Length - past.Texts.Length - 1) given with
            | Some evicted ->
                Expect.isGreaterThan (past.Count + evicted.Length) (limit - limit / 4) "no more than must"
            | None -> ()

            let fresh = pastOf 100_000 past.Texts
            let text = few kinds tokens
            Expect.equal (past.Lookup(8, ReadOnlySpan text)) (fresh.Lookup(8, ReadOnlySpan text)) "drafts"

        testCase "a long repetition is matched at the longest, and costs no more for it" (fun () ->
            let index = indexOf (Array.create 5000 7)
            let draft = SuffixIndex.lookup 100 index
            Expect.equal draft.Matched 64 "matched"
            Expect.equal draft.Tokens (Array.create 64 7) "as many as matched"
            Expect.floatClose Accuracy.high draft.Score 64.0 "sure")

        testCase "threads that share an index, and past texts, each read what they would alone" (fun () ->
            let text = Array.init 600 (fun i -> i * i % 11)
            let shared = indexOf text
            let past = PastTexts 3000

            let one number =
                let more = Array.init 40 (fun i -> (i + number) % 5)
                let whole = Array.append text more

                for _ in 1..20 do
                    let grown = SuffixIndex.ofText (memory whole) shared
                    Expect.equal (SuffixIndex.lookup 8 grown) (SuffixIndex.lookup 8 (indexOf whole)) "grown"
                    Expect.equal (SuffixIndex.lookup 8 shared) (SuffixIndex.lookup 8 (indexOf text)) "shared"
                    past.Add(ReadOnlySpan whole)
                    Expect.equal (past.Lookup(8, ReadOnlySpan text)).Matched 64 "found"

            Parallel.For(0, 8, one) |> ignore
            Expect.equal past.Count 2560 "four texts")

        testCase
            "a token more and a lookup take under 5 us in a text of 8,192 tokens, and under 250 bytes a token"
            (fun () ->
                let random = Random 5

                for name, text in
                    [
                        "one token", Array.create 8192 7
                        "two tokens", Array.init 8192 (fun _ -> random.Next 2)
                        "a period", Array.init 8192 (fun i -> i % 97)
                        "all tokens", Array.init 8192 (fun _ -> random.Next 50_000)
                        // Some tokens are frequent, as words are.
                        "words", Array.init 8192 (fun _ -> int (random.NextDouble() ** 4.0 * 3000.0))
                    ] do
                    let time () =
                        let began = Stopwatch.GetTimestamp()
                        let mutable index = SuffixIndex.empty

                        for count in 1 .. text.Length do
                            index <- SuffixIndex.ofText (ReadOnlyMemory(text, 0, count)) index
                            SuffixIndex.lookup 8 index |> ignore

                        Expect.isLessThan (index.Bytes / int64 text.Length) 250L $"{name}: bytes a token"
                        Stopwatch.GetElapsedTime(began).TotalMicroseconds / float text.Length

                    // .NET compiles for speed in the background, which a busy machine delays: the first runs say nothing.
                    let waiting = Stopwatch.StartNew()
                    let mutable least = time ()

                    while least >= 5.0 && waiting.Elapsed.TotalSeconds < 10.0 do
                        System.Threading.Thread.Sleep 50
                        least <- min least (time ())

                    Expect.isLessThan least 5.0 $"{name}: us a token")

        testCase "past texts of no token are a mistake" (fun () ->
            Expect.throwsT<ArgumentException> (fun () -> PastTexts 0 |> ignore) "at least one")
    ]
