module LayerSkip.Tests.RougeTests

open System
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip

/// Texts of few words, so that they have some in common.
type private Words =
    static member Text() =
        Gen.elements [ "a"; "b"; "c"; "d" ]
        |> Gen.listOf
        |> Gen.resize 8
        |> Gen.map (String.concat " ")
        |> Arb.fromGen

let private settings = { FsCheckConfig.defaultConfig with arbitrary = [ typeof<Words> ]; maxTest = 300 }

let private holds name = testPropertyWithConfig settings name

let private measures = [
    "rouge1", Rouge.ngrams 1
    "rouge2", Rouge.ngrams 2
    "rougeL", Rouge.longest
    "rougeLsum", Rouge.longestBySentence
]

/// The length of the longest common subsequence, by trying all of the first one's.
let private brute (a: string[]) (b: string[]) : int =
    let rec isWithin (part: string list) (whole: string list) =
        match part, whole with
        | [], _ -> true
        | _, [] -> false
        | p :: ps, w :: ws -> if p = w then isWithin ps ws else isWithin part ws

    seq { 0 .. (1 <<< a.Length) - 1 }
    |> Seq.map (fun bits -> [
        for i in 0 .. a.Length - 1 do
            if bits &&& (1 <<< i) <> 0 then
                a[i]
    ])
    |> Seq.filter (fun part -> isWithin part (List.ofArray b))
    |> Seq.map List.length
    |> Seq.max

let private near (expected: float) (found: float) what = Expect.floatClose Accuracy.high found expected what

[<Tests>]
let tests =
    testList "rouge" [
        holds "the F1 of two texts is that of the two turned round" (fun (a: string) (b: string) ->
            // But for sentences: the union covers the reference.
            for name, score in List.truncate 3 measures do
                near (score a b).F1 (score b a).F1 name
                near (score a b).Precision (score b a).Recall name)

        holds "a text covers itself, and no text covers one of other words" (fun (text: string) ->
            for name, score in measures do
                let own = score text text
                let least = if name = "rouge2" then 2 else 1
                near (if (Rouge.tokens text).Length >= least then 1.0 else 0.0) own.F1 name
                near 0.0 (score text "x y z").F1 name)

        holds "shares are between 0 and 1, and the harmonic mean between them" (fun (a: string) (b: string) ->
            for name, score in measures do
                let found = score a b
                for share in [ found.Precision; found.Recall; found.F1 ] do
                    Expect.isTrue (0.0 <= share && share <= 1.0) name
                Expect.isLessThanOrEqual found.F1 (max found.Precision found.Recall + 1e-12) name)

        holds "the longest common subsequence is the longest" (fun (a: string) (b: string) ->
            let left, right = Rouge.tokens a, Rouge.tokens b
            let common = brute left right
            near (float common / float (max 1 left.Length)) (Rouge.longest a b).Recall "of the reference"
            near
                (float common / float (max 1 right.Length))
                (Rouge.longest a b).Precision
                "of the prediction")

        holds "of one sentence each, Lsum is L" (fun (a: string) (b: string) ->
            near (Rouge.longest a b).F1 (Rouge.longestBySentence a b).F1 "F1")

        testCase "tokens are lower-case runs of letters and digits" (fun () ->
            Expect.equal
                (Rouge.tokens "It's 3.14, NAÏVE\n\u212Aelvin_9!")
                [| "it"; "s"; "3"; "14"; "na"; "ve"; "kelvin"; "9" |]
                "tokens"
            Expect.isEmpty (Rouge.tokens " ...! ") "none")

        testCase "values counted by hand" (fun () ->
            let reference = "the quick brown fox jumps over the lazy dog"
            let prediction = "the quick brown dog jumps on the log"
            // the (2), quick, brown, dog, jumps of 9 and 8 tokens.
            let one = Rouge.ngrams 1 reference prediction
            near (6.0 / 8.0) one.Precision "unigrams"
            near (6.0 / 9.0) one.Recall "unigrams"
            near (12.0 / 17.0) one.F1 "unigrams"
            // "the quick", "quick brown" of 8 and 7.
            let two = Rouge.ngrams 2 reference prediction
            near (2.0 / 7.0) two.Precision "bigrams"
            near (2.0 / 8.0) two.Recall "bigrams"
            // the quick brown ... jumps ... the.
            let longest = Rouge.longest reference prediction
            near (5.0 / 8.0) longest.Precision "longest"
            near (5.0 / 9.0) longest.Recall "longest"
            near 0.0 (Rouge.ngrams 3 "a b" "a b").F1 "there is no run of three"
            // "a a b" and "a": a counts as often as both have it.
            near (1.0 / 3.0) (Rouge.ngrams 1 "a a b" "a").Recall "clipped")

        testCase "sentences are covered by unions" (fun () ->
            // Lin 2004, section 3.2: w1 w2 of the first sentence, w1 w3 w5 of the second: 4 of 5.
            let found = Rouge.longestBySentence "w1 w2 w3 w4 w5" "w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5"
            near (4.0 / 5.0) found.Recall "the paper's example"
            near (4.0 / 10.0) found.Precision "of ten"
            // A word that the prediction has once covers one place.
            near 0.5 (Rouge.longestBySentence "a\na" "a").Recall "no place twice"
            near 0.0 (Rouge.longestBySentence "a" "").F1 "nothing")
    ]
