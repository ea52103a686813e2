module LayerSkip.Tests.StatisticsTests

open System
open System.IO
open System.Text
open System.Text.Json
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.CliSupport

/// Rounds that drafted and kept so many.
type Rounds = Rounds of (int * int) list

/// Positive times of some texts, each decoded in two ways: tokens, then milliseconds.
type Pairs = Pairs of (TextTime * TextTime)[]

type Arbitraries =
    static member Rounds() =
        Arb.fromGen (
            gen {
                let! drafted = Gen.choose (0, 6)
                let! accepted = Gen.choose (0, drafted)
                return drafted, accepted
            }
            |> Gen.listOf
            |> Gen.map Rounds
        )

    static member Pairs() =
        let time =
            Gen.map2
                (fun tokens ms -> { Tokens = tokens; Ms = float ms })
                (Gen.choose (1, 64))
                (Gen.choose (1, 900))

        Arb.fromGen (Gen.zip time time |> Gen.nonEmptyListOf |> Gen.map (Array.ofList >> Pairs))

let private config = { FsCheckConfig.defaultConfig with maxTest = 60; arbitrary = [ typeof<Arbitraries> ] }

let private property name body = testPropertyWithConfig config name body

let private close (a: float) (b: float) = abs (a - b) <= 1e-9 * (1.0 + abs a + abs b)

/// What a writer writes into an object.
let private written (fields: Utf8JsonWriter -> unit) : JsonElement =
    use stream = new MemoryStream()

    using (new Utf8JsonWriter(stream)) (fun json ->
        json.WriteStartObject()
        fields json
        json.WriteEndObject())

    JsonDocument.Parse(Encoding.UTF8.GetString(stream.ToArray())).RootElement

[<Tests>]
let tests =
    testList "statistics" [
        property "metrics are what counting rounds one by one gives" (fun (Rounds rounds) ->
            let metrics = SpeculationMetrics.ofRounds rounds
            let speculative = rounds |> List.filter (fun (drafted, _) -> drafted > 0)
            let drafted, accepted = List.sumBy fst speculative, List.sumBy snd speculative
            Expect.equal metrics.NumSpecSteps speculative.Length "rounds"
            Expect.equal metrics.NumPlainSteps (rounds.Length - speculative.Length) "plain steps"
            Expect.equal
                (metrics.NumDraftTokens, metrics.NumAcceptedDraftTokens)
                (drafted, accepted)
                "drafts"
            Expect.equal metrics.Tokens (List.sumBy (fun (_, accepted) -> accepted + 1) rounds) "tokens"

            if not speculative.IsEmpty then
                let length = 1.0 + float accepted / float speculative.Length
                Expect.isTrue (close metrics.MeanAcceptanceLength length) "length"
                Expect.isTrue (close metrics.DraftAcceptanceRate (float accepted / float drafted)) "rate"

            metrics.AcceptanceHistogram
            |> Array.iteri (fun kept count ->
                let expected =
                    speculative |> List.filter (fun (_, accepted) -> accepted = kept) |> List.length
                Expect.equal count expected $"kept {kept}")

            for length, counts in Map.toSeq metrics.AcceptanceHistogramByDraftLength do
                counts
                |> Array.iteri (fun kept count ->
                    let same = rounds |> List.filter ((=) (length, kept)) |> List.length
                    Expect.equal count same $"{kept} of {length}")

            metrics.AcceptanceByPosition
            |> Array.iteri (fun before share ->
                let reaching = rounds |> List.filter (fun (drafted, _) -> drafted >= before + 1)
                let kept = reaching |> List.filter (fun (_, accepted) -> accepted >= before + 1)
                Expect.isTrue
                    (close share (float kept.Length / float reaching.Length))
                    $"place {before + 1}")

            if not rounds.IsEmpty then
                // Each draft passes 2 layers; each round the rest of them, and its last row the first 2.
                let layers = rounds |> List.sumBy (fun (drafted, _) -> 2 * drafted + 6)
                let expected = float metrics.Tokens / float layers
                Expect.isTrue (close (metrics.TokensPerLayer(6, 2)) expected) "tokens a layer")

        property "metrics agree with those of a text, and add up" (fun (Rounds a) (Rounds b) ->
            let both = SpeculationMetrics.ofRounds (a @ b)
            let added =
                SpeculationMetrics.sum [ SpeculationMetrics.ofRounds a; SpeculationMetrics.ofRounds b ]
            Expect.equal added both "a sum"
            Expect.equal
                (SpeculationMetrics.tryOfCounts (SpeculationMetrics.counts both))
                (Some both)
                "read back"

            let text =
                SpeculationStats.ofRounds [|
                    for drafted, accepted in a @ b ->
                        { Tokens = [||]; Drafted = drafted; Accepted = accepted; Sources = [||] }
                |]

            Expect.equal both.AcceptanceHistogram text.AcceptanceHistogram "histogram"
            Expect.isTrue (close both.MeanAcceptanceLength text.MeanAcceptanceLength) "length"
            Expect.isTrue (close both.DraftAcceptanceRate text.DraftAcceptanceRate) "rate")

        testCase "counts that are no rounds' are refused" (fun () ->
            for counts in
                [
                    [ 2, [| 1; 1 |] ]
                    [ 1, [| -1; 1 |] ]
                    [ -1, [||] ]
                    [ 1, [| 1; 0 |]; 1, [| 1; 0 |] ]
                ] do
                Expect.isNone (SpeculationMetrics.tryOfCounts counts) $"%A{counts}")

        property "speed-ups are ratios of means, and their own inverse" (fun (Pairs pairs) ->
            let made = SpeedUp.paired (Key.ofSeed 1L) pairs
            let mean pick = pairs |> Array.averageBy pick
            let ms (time: TextTime) = time.Ms / float time.Tokens
            let rate (time: TextTime) = 1000.0 * float time.Tokens / time.Ms
            let times = mean (fst >> ms) / mean (snd >> ms)
            let rates = mean (snd >> rate) / mean (fst >> rate)
            Expect.isTrue (close made.OfTimes.Value times) "of times"
            Expect.isTrue (close made.OfRates.Value rates) "of rates"
            // As text, where a number that is none equals itself.
            Expect.equal $"%A{made}" $"%A{SpeedUp.paired (Key.ofSeed 1L) pairs}" "of one seed, the same"

            let inverse = SpeedUp.paired (Key.ofSeed 1L) (pairs |> Array.map (fun (a, b) -> b, a))
            Expect.isTrue (close (1.0 / made.OfTimes.Value) inverse.OfTimes.Value) "inverse"

            if pairs.Length > 1 then
                Expect.isTrue (made.OfTimes.Low <= made.OfTimes.High) "bounds"
                Expect.isTrue (close (1.0 / made.OfTimes.High) inverse.OfTimes.Low) "the inverse bound"
            else
                Expect.isTrue (Double.IsNaN made.OfTimes.Low) "one text has no interval")

        testCase "texts of one token do not count" (fun () ->
            let time tokens ms = { Tokens = tokens; Ms = ms }
            let pairs = [|
                time 10 20.0, time 10 10.0
                time 0 0.0, time 0 0.0
                time 10 40.0, time 10 20.0
            |]
            let made = SpeedUp.paired (Key.ofSeed 1L) pairs
            Expect.equal (made.OfTimes.Value, made.OfRates.Value, made.Texts) (2.0, 2.0, 2) "twice as fast"
            Expect.equal (made.OfTimes.Low, made.OfTimes.High) (2.0, 2.0) "in each text, so without doubt"
            Expect.isTrue (Double.IsNaN (SpeedUp.paired (Key.ofSeed 1L) [||]).OfRates.Value) "of none")

        testCase "19 of 20 intervals hold the true mean" (fun () ->
            // Means of 40 uniforms: the law is known, 0.5 the mean.
            let holds seed =
                let samples =
                    Array.init 40 (fun i ->
                        let struct (u, _) = Key.uniform { Key.ofSeed seed with Counter = uint64 i }
                        u)
                let found = Bootstrap.mean (Key.ofSeed (1000L + seed)) samples
                Expect.isTrue (found.Low < found.Value && found.Value < found.High) "around the value"
                found.Low <= 0.5 && 0.5 <= found.High

            let share =
                Seq.init 300 (int64 >> holds) |> Seq.averageBy (fun held -> if held then 1.0 else 0.0)
            Expect.isTrue (share > 0.9 && share < 0.985) $"{share}")

        testCase "pairing takes out what texts differ in" (fun () ->
            // Texts a hundred times as slow as others, each decoded twice as fast but for 1 %.
            let pairs =
                Array.init 12 (fun i ->
                    let slow = 10.0 * 1.5 ** float i
                    { Tokens = 10; Ms = slow }, { Tokens = 10; Ms = slow / (2.0 + 0.01 * float (i % 3)) })

            let own = SpeedUp.paired (Key.ofSeed 3L) pairs
            Expect.isTrue (own.OfTimes.High - own.OfTimes.Low < 0.03) $"%A{own}"
            let alone =
                Bootstrap.mean (Key.ofSeed 3L) (pairs |> Array.map (fun (slow, _) -> slow.MsPerToken))
            Expect.isGreaterThan ((alone.High - alone.Low) / alone.Value) 0.5 "though times vary")

        testCase "JSON has vLLM's names, and no number where there is none" (fun () ->
            let metrics = SpeculationMetrics.ofRounds [ 4, 2; 4, 4; 1, 0; 0, 0 ]
            let made = written (StatisticsJson.speculation metrics)

            made
            |> hasFields [
                "num_spec_steps", N
                "num_draft_tokens", N
                "num_accepted_draft_tokens", N
                "draft_acceptance_rate", N
                "mean_acceptance_length", N
                "acceptance_histogram", A
                "acceptance_histogram_by_draft_length", O
                "per_position_acceptance_rate", A
                "num_spec_tokens", N
                "num_plain_steps", N
            ]

            let lengths = made.GetProperty "acceptance_histogram_by_draft_length"
            Expect.equal (fields lengths |> List.map fst) [ "1"; "4" ] "by draft length"
            Expect.equal (ints (lengths.GetProperty "4")) [| 0; 0; 1; 0; 1 |] "of four"
            let one = written (StatisticsJson.interval "x" (Bootstrap.mean (Key.ofSeed 1L) [| 3.0 |]))
            Expect.equal ((one.GetProperty "x").GetRawText()) """{"value":3,"low":null,"high":null}""" "null")
    ]
