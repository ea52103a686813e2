module LayerSkip.Tests.AnswerTests

open System
open Expecto
open FsCheck
open LayerSkip

/// Levenshtein's distance as it is defined.
let rec private distance (a: char list) (b: char list) : int =
    match a, b with
    | [], rest
    | rest, [] -> rest.Length
    | x :: xs, y :: ys when x = y -> distance xs ys
    | _ :: xs, _ :: ys -> 1 + List.min [ distance xs ys; distance xs b; distance a ys ]

/// n over k.
let private choose (n: int) (k: int) : float =
    Seq.fold (fun product i -> product * float (n - k + i) / float i) 1.0 (seq { 1..k })

let private short (letters: bool list) =
    letters |> List.truncate 6 |> List.map (fun letter -> if letter then 'a' else 'b')

[<Tests>]
let tests =
    testList "answers" [
        testProperty "the edit distance is the least number of edits" (fun (a: bool list) (b: bool list) ->
            let a, b = short a, short b
            Expect.equal
                (Answers.editDistance (String(Array.ofList a)) (String(Array.ofList b)))
                (distance a b)
                $"%A{a} %A{b}")

        testProperty "it is a distance" (fun (NonNull a) (NonNull b) (NonNull c) ->
            let far = Answers.editDistance
            Expect.equal (far a b) (far b a) "as far there as back"
            Expect.equal (far a b = 0) (a = b) "0 between equal texts alone"
            Expect.isLessThanOrEqual (far a c) (far a b + far b c) "no way round is shorter")

        testProperty "pass@k is the chance that k samples hold one that passes"
        <| fun (PositiveInt samples) (NonNegativeInt passed) (PositiveInt k) ->
            let samples = 1 + samples % 30
            let passed, k = passed % (samples + 1), 1 + k % samples
            let expected = 1.0 - choose (samples - passed) k / choose samples k
            let expected = if samples - passed < k then 1.0 else expected
            Expect.floatClose
                Accuracy.high
                (Answers.passAt k samples passed)
                expected
                $"{k} {samples} {passed}"

        testCase "pass@1 is the share that passes, and pass@n whether one does" (fun () ->
            Expect.floatClose Accuracy.high (Answers.passAt 1 8 3) 0.375 "a share"
            Expect.equal (Answers.passAt 8 8 1) 1.0 "one of all"
            Expect.equal (Answers.passAt 8 8 0) 0.0 "none")

        testCase "numbers are read out of texts as lm-evaluation-harness does" (fun () ->
            for text, strict, flexible in
                [
                    "She makes 9 * 2 = $18.\n#### 18", Some "18", Some "18"
                    "#### -1,234.5 and #### 7", Some "-1,234.5", Some "7"
                    "The answer is 576.", None, Some "576."
                    "It costs $1,000", None, Some "$1,000"
                    "####18", None, Some "18"
                    "#### x 3", None, Some "3"
                    "nothing", None, None
                    "", None, None
                ] do
                Expect.equal (Answers.strict text) strict $"strict: {text}"
                Expect.equal (Answers.flexible text) flexible $"flexible: {text}")

        testCase "commas, dollars and the point at the end do not count" (fun () ->
            for wanted, found, expected in
                [
                    "1000", Some "$1,000", true
                    "576", Some "576.", true
                    "18", Some "18.5", false
                    "18", Some "-18", false
                    "18", None, false
                    "1,234", Some "1234", true
                ] do
                Expect.equal (Answers.isNumber wanted found) expected $"{wanted} {found}")

        testCase "a long text takes no longer than it is" (fun () ->
            let text = String.replicate 200_000 "$1,"
            let watch = Diagnostics.Stopwatch.StartNew()
            Expect.isSome (Answers.flexible text) "it is one number"
            Expect.isNone (Answers.strict text) "and no strict one"
            Expect.isLessThan watch.Elapsed.TotalSeconds 5.0 "no backtracking")
    ]
