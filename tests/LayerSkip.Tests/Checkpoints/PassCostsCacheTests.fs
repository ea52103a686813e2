module LayerSkip.Tests.PassCostsCacheTests

open System
open System.IO
open System.Threading
open System.Threading.Tasks
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

Backend.ensure ()

/// Numbers that six digits hold.
let private costs = { Rows = [| 1.0; 1.25; 1.5; 2.0 |]; DraftBase = 0.125; DraftLayer = 0.25 }

/// A model's folder, a folder for the cache, and how often passes were measured meanwhile.
let private withCache
    (body: Checkpoint -> string -> (unit -> struct (PassCosts * bool)) -> (unit -> int) -> unit)
    =
    withModel (fun model ->
        withFolder (fun cache ->
            use checkpoint = Checkpoint.load model None Device.Cpu |> Check.getOrRaise
            let mutable measured = 0

            let measure () =
                Interlocked.Increment &measured |> ignore
                struct (costs, true)

            body checkpoint cache measure (fun () -> measured)))

let private always (_: PassCosts) = true

let private file (folder: string) =
    Directory.GetFiles(folder, "*", SearchOption.AllDirectories) |> Array.exactlyOne

/// With an environment of its own, which is the process's.
let private withVariables (values: (string * string | null) list) (body: unit -> unit) =
    let before = [ for name, _ in values -> name, Environment.GetEnvironmentVariable name ]

    try
        for name, value in values do
            Environment.SetEnvironmentVariable(name, value)

        body ()
    finally
        for name, value in before do
            Environment.SetEnvironmentVariable(name, value)

[<Tests>]
let tests =
    testSequenced
    <| testList "what passes cost, remembered" [
        testCase "what was measured once is read the next time, to the digits that are kept" (fun () ->
            withCache (fun checkpoint cache measure measured ->
                let folder = Some(Path.Combine(cache, "not", "there", "yet"))
                let get () = PassCostsCache.inFolder folder measure always None checkpoint
                Expect.equal (get ()) costs "measured"
                Expect.equal (get ()) costs "read"
                Expect.equal (measured ()) 1 "once"

                let text = File.ReadAllText(file cache)
                Expect.isLessThan text.Length 2000 "small"

                for words in [ "\"threads\""; "model.safetensors, "; "\"processor\""; "rows_ms" ] do
                    Expect.stringContains text words "for people to read"))

        testCase "another model, vocabulary or number of threads is another thing" (fun () ->
            withCache (fun checkpoint cache measure measured ->
                let get plan = PassCostsCache.inFolder (Some cache) measure always plan checkpoint |> ignore
                get None
                get (Some(ContextVocabulary.around [| 1; 2 |]))
                Expect.equal (measured ()) 2 "a vocabulary"

                let threads = CpuKernels.threads ()

                try
                    CpuKernels.setThreads (threads + 1)
                    get None
                finally
                    CpuKernels.setThreads threads

                Expect.equal (measured ()) 3 "threads"
                get None
                Expect.equal (measured ()) 3 "the first is still known"
                let weights = Path.Combine(checkpoint.Path, "model.safetensors")
                File.SetLastWriteTimeUtc(weights, DateTime.UtcNow.AddHours 1.0)
                get None
                Expect.equal (measured ()) 4 "written again"))

        testCase "a file that is broken, another's or senseless is measured anew, and put right" (fun () ->
            withCache (fun checkpoint cache measure measured ->
                let get () = PassCostsCache.inFolder (Some cache) measure always None checkpoint
                get () |> ignore
                let path = file cache
                let good = File.ReadAllText path

                let broken = [
                    ""
                    "{"
                    "[]"
                    "null"
                    good[.. good.Length / 2]
                    good.Replace("\"threads\"", "\"thread\"")
                    good.Replace("0.125", "-1")
                    good.Replace("0.125", "\"0.125\"")
                    good.Replace("0.125", "1e999")
                    good.Replace("rows_ms\": [", "rows_ms\": [ 0,")
                    good.Replace("rows_ms\": [", "rows_ms\": [ 9999,")
                    good.Replace("rows_ms\": [", "rows_ms\": [], \"other\": [")
                    String('x', 100_000)
                    "\ud800\u0000\u0001"
                ]

                for number, text in List.indexed broken do
                    Expect.notEqual text good "it is broken"
                    File.WriteAllText(path, text)
                    let before = measured ()
                    Expect.equal (get ()) costs "measured"
                    Expect.equal (measured ()) (before + 1) $"anew, {number}"
                    Expect.equal (File.ReadAllText path) good "and written"))

        testCase "what was measured on a busy machine is used and not kept" (fun () ->
            withCache (fun checkpoint cache measure measured ->
                let busy () =
                    let struct (costs, _) = measure ()
                    struct (costs, false)

                let get measure = PassCostsCache.inFolder (Some cache) measure always None checkpoint
                Expect.equal (get busy) costs "used"
                Expect.isEmpty (Directory.GetFiles cache) "not written"
                Expect.equal (get measure) costs "measured"
                Expect.equal (get measure) costs "read"
                Expect.equal (measured ()) 2 "until it was undisturbed"))

        testCase "what does not fit the machine at hand is measured anew" (fun () ->
            withCache (fun checkpoint cache measure measured ->
                let get fits = PassCostsCache.inFolder (Some cache) measure fits None checkpoint |> ignore
                get always
                get (fun _ -> false)
                Expect.equal (measured ()) 2 "anew"

                // A file's times of long ago, by a plain pass of now in milliseconds.
                for plain, fits in
                    [
                        0.9, true
                        5.0, true
                        49.0, true
                        0.5, false
                        51.0, false
                        1e-9, false
                        infinity, false
                    ] do
                    Expect.equal (PassProfile.fits plain costs) fits $"{plain}"

                let plain = PassProfile.plain checkpoint.Weights
                Expect.isTrue (plain > 0.0 && plain < 1e4) "a pass was timed"))

        testPropertyWithConfig
            { FsCheckConfig.defaultConfig with maxTest = 300 }
            "samples of a busy machine are seen to be, and those of a quiet one are taken"
            (fun (seed: int) (count: int) ->
                let random = Random seed
                let plain = 0.01 + random.NextDouble()
                let noise scale = 1.0 + scale * random.NextDouble()
                let samples = 3 + abs count % 20
                let rowsOf scale = [
                    for rows in [ 1; 2; 3; 5; 9; 17 ] ->
                        rows, [ for _ in 1..samples -> plain * (1.0 + 0.1 * float (rows - 1)) * noise scale ]
                ]
                let draftsOf scale = [
                    for exit in [ 3; 8 ] ->
                        exit, [ for _ in 1..samples -> plain * float exit / 20.0 * noise scale ]
                ]

                let struct (quiet, isSteady) = PassCosts.ofSamples 24 1.0 (rowsOf 0.2) (draftsOf 0.2)
                Expect.isTrue isSteady "quiet"
                Expect.equal quiet.Rows.Length 17 "all rows"

                // Some kinds were pushed off the processor each time.
                let push isPushed kinds =
                    kinds
                    |> List.map (fun (kind, taken) ->
                        kind,
                        (if isPushed kind then
                             taken |> List.mapi (fun i ms -> ms * float (10 + 40 * i))
                         else
                             taken))

                let pushed = [ 2; 3; 5; 9; 17 ][random.Next 5]

                let struct (others, isSteady) =
                    PassCosts.ofSamples 24 1.0 (push ((=) pushed) (rowsOf 0.2)) (draftsOf 0.2)
                Expect.isTrue isSteady "one kind"
                Expect.isLessThan others.Rows[others.Rows.Length - 1] (4.0 * plain) "the others tell"

                for rows, drafts in
                    [
                        push ((=) 1) (rowsOf 0.2), draftsOf 0.2
                        push (fun rows -> rows > 2) (rowsOf 0.2), draftsOf 0.2
                        rowsOf 0.2, push (fun _ -> true) (draftsOf 0.2)
                    ] do
                    let struct (shared, isSteady) = PassCosts.ofSamples 24 1.0 rows drafts
                    Expect.isFalse isSteady "busy"
                    let seen = rows |> List.head |> snd |> List.min
                    Expect.equal shared (PassCosts.ofShares 24 1.0 seen) "shares of weights"

                // Too few passes were timed, of one kind or of all: what the first of a process takes tells little.
                let cut kinds count =
                    kinds |> List.map (fun (kind, taken) -> kind, List.truncate count taken)

                for rows, drafts in
                    [
                        cut (rowsOf 0.2) 1, draftsOf 0.2
                        // As of a model whose pass takes long: there was no time for drafts, which say nothing of one.
                        rowsOf 0.2, []
                        rowsOf 0.2, cut (draftsOf 0.2) 2
                        List.truncate 1 (rowsOf 0.2) @ cut (List.skip 1 (rowsOf 0.2)) 2, draftsOf 0.2
                    ] do
                    let struct (costs, isSteady) = PassCosts.ofSamples 24 1.0 rows drafts
                    Expect.isFalse isSteady "few"
                    let seen = rows |> List.head |> snd |> List.min
                    Expect.equal costs (PassCosts.ofShares 24 1.0 seen) "shares of weights"

                // Passes that take long are had twice.
                let scaled = List.map (fun (kind, taken) -> kind, taken |> List.map ((*) (30.0 / plain)))
                let struct (long, isSteady) =
                    PassCosts.ofSamples 24 1.0 (scaled (cut (rowsOf 0.2) 2)) (scaled (cut (draftsOf 0.2) 2))
                Expect.isTrue isSteady "long"
                Expect.equal long.Rows.Length 17 "all rows")

        testCase "no place to write is no fault" (fun () ->
            withCache (fun checkpoint cache measure measured ->
                let get folder = PassCostsCache.inFolder folder measure always None checkpoint
                let occupied = Path.Combine(cache, "file")
                File.WriteAllText(occupied, "in the way")

                for folder in
                    [
                        None
                        Some occupied
                        Some(Path.Combine(occupied, "inside"))
                        Some "/proc/layerskip"
                        Some "/dev/null/layerskip"
                        Some(Path.Combine(cache, String('x', 300)))
                        Some "\u0000"
                    ] do
                    Expect.equal (get folder) costs $"%A{folder}"

                Expect.equal (measured ()) 7 "measured each time"
                Expect.equal (File.ReadAllText occupied) "in the way" "nothing is overwritten"

                asNobody (fun () -> Expect.equal (get (Some(Path.Combine(cache, "mine")))) costs "no right")))

        testCase "what stands in the file's place is left alone" (fun () ->
            withCache (fun checkpoint cache measure _ ->
                let get () = PassCostsCache.inFolder (Some cache) measure always None checkpoint
                get () |> ignore
                let path = file cache
                File.Delete path
                Directory.CreateDirectory path |> ignore
                Expect.equal (get ()) costs "measured"
                Expect.isTrue (Directory.Exists path) "still a folder"))

        testCase "two that write at once leave one whole file" (fun () ->
            withCache (fun checkpoint cache measure _ ->
                Parallel.For(
                    0,
                    16,
                    fun _ ->
                        let made = PassCostsCache.inFolder (Some cache) measure always None checkpoint
                        Expect.equal made costs "measured or read"
                )
                |> ignore

                let before = Directory.GetFiles cache
                Expect.equal before.Length 1 "no unfinished file"

                let fails () = failwith "it is there"
                Expect.equal
                    (PassCostsCache.inFolder (Some cache) fails always None checkpoint)
                    costs
                    "and good"))

        testCase "a folder keeps the newest only" (fun () ->
            withCache (fun checkpoint cache measure _ ->
                for number in 1..80 do
                    let path = Path.Combine(cache, $"passes-{number:D16}.json")
                    File.WriteAllText(path, "{}")
                    File.SetLastWriteTimeUtc(path, DateTime.UtcNow.AddDays(-float number))

                File.WriteAllText(Path.Combine(cache, "another's.json"), "{}")
                PassCostsCache.inFolder (Some cache) measure always None checkpoint |> ignore
                Expect.equal (Directory.GetFiles(cache, "passes-*")).Length 64 "64"
                Expect.isTrue (File.Exists(Path.Combine(cache, "another's.json"))) "others' files stay"
                Expect.isFalse (File.Exists(Path.Combine(cache, $"passes-{80:D16}.json"))) "the oldest went"))

        testCase "the environment says where, or nowhere" (fun () ->
            let folder (cache: string | null) (off: string | null) =
                let mutable found = None

                withVariables [ "XDG_CACHE_HOME", cache; PassCostsCache.variable, off ] (fun () ->
                    found <- PassCostsCache.folder ())

                found

            Expect.equal (folder "/somewhere" null) (Some "/somewhere/layerskip") "XDG_CACHE_HOME"
            Expect.equal (folder "/somewhere" "off") None "off"
            Expect.notEqual
                (folder "relative" null)
                (Some "relative/layerskip")
                "a relative path counts for nothing"

            match folder null null with
            | Some path -> Expect.stringEnds path "/.cache/layerskip" "the home's"
            | None -> ())

        testCase "a process measures a model once" (fun () ->
            withModel (fun model ->
                use checkpoint = Checkpoint.load model None Device.Cpu |> Check.getOrRaise
                let first = PassCostsCache.get None checkpoint
                Expect.isTrue (obj.ReferenceEquals(first, PassCostsCache.get None checkpoint)) "the same"

                let other = PassCostsCache.get (Some(ContextVocabulary.around [| 1; 2 |])) checkpoint
                Expect.isFalse (obj.ReferenceEquals(first, other)) "another vocabulary"))
    ]
