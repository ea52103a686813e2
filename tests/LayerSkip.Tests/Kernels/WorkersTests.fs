module LayerSkip.Tests.WorkersTests

open System
open System.Threading
open Expecto
open LayerSkip
open LayerSkip.Kernels

/// Runs `body` with so many threads, and as many as before after it.
let private withThreads threads (body: Workers -> unit) =
    let before = CpuKernels.threads ()

    try
        Workers.Use threads
        body Workers.Shared
    finally
        Workers.Use before

/// What a job of parts 0 .. `parts` - 1 throws.
let private thrown (workers: Workers) parts (body: int -> unit) : exn option =
    try
        workers.Run(parts, body)
        None
    with e ->
        Some e

let private isRefused (fault: exn option) =
    match fault with
    | Some(:? InvalidOperationException as e) -> e.Message.Contains "within a part"
    | _ -> false

[<Tests>]
let tests =
    testSequenced
    <| testList "workers" [
        for threads in [ 1; 2; 4 ] do
            testCase
                $"{threads} threads: whichever part throws, the caller gets it once no part runs, and the next job is whole"
                (fun () ->
                    withThreads threads (fun workers ->
                        for round in 1..400 do
                            let parts, culprit = 24, round % 24
                            let running, begun = ref 0, ref 0

                            let fault =
                                thrown workers parts (fun part ->
                                    Interlocked.Increment running |> ignore
                                    Interlocked.Increment begun |> ignore

                                    if part = culprit then
                                        Interlocked.Decrement running |> ignore
                                        raise (TimeoutException $"part {part}")

                                    // Long enough that others run while one throws.
                                    Thread.SpinWait(round % 7 * 200)
                                    Interlocked.Decrement running |> ignore)

                            Expect.equal running.Value 0 "no part runs any more"
                            Expect.isLessThanOrEqual begun.Value parts "none ran twice"

                            match fault with
                            | Some(:? TimeoutException as e) ->
                                Expect.equal e.Message $"part {culprit}" "its own exception"
                            | other -> failtest $"{other}"

                            let counts = Array.zeroCreate<int> 16
                            workers.Run(16, fun part -> Interlocked.Increment(&counts[part]) |> ignore)
                            Expect.all counts ((=) 1) "the next job's parts, each once"))

            testCase
                $"{threads} threads: a job within a part is refused, on whichever thread the part runs"
                (fun () ->
                    withThreads threads (fun workers ->
                        for parts in [ 1; 2; 16 ] do
                            for inner in [ 1; 8 ] do
                                let again _ = workers.Run(inner, ignore)
                                Expect.isTrue (isRefused (thrown workers parts again)) $"{inner} in {parts}"

                        let other _ = Workers.Use(threads + 1)
                        Expect.isTrue
                            (isRefused (thrown workers 8 other))
                            "nor are the threads changed under it"
                        Expect.isNone (thrown workers 8 ignore) "the next job runs"))

        testCase
            "every part throws, on every thread: one is rethrown, the rest are not begun or are over"
            (fun () ->
                withThreads 4 (fun workers ->
                    for _ in 1..200 do
                        let fault = thrown workers 64 (fun part -> raise (TimeoutException(string part)))
                        Expect.isTrue (fault.Value :? TimeoutException) $"{fault}"

                    Expect.isNone (thrown workers 64 ignore) "and all is well after it"))

        testCase
            "a caller who is interrupted stays until no part runs, and learns of it at its next wait"
            (fun () ->
                withThreads 3 (fun workers ->
                    let strays, told = ref 0, ref 0

                    let body () =
                        for _ in 1..300 do
                            let running = ref 0

                            try
                                workers.Run(
                                    6,
                                    fun _ ->
                                        Interlocked.Increment running |> ignore
                                        Thread.SpinWait 20_000
                                        Interlocked.Decrement running |> ignore
                                )

                                strays.Value <- strays.Value + running.Value
                                Thread.Sleep 0
                            with :? ThreadInterruptedException ->
                                strays.Value <- strays.Value + running.Value
                                told.Value <- told.Value + 1

                    let caller = Thread(body, IsBackground = true)
                    caller.Start()

                    while caller.IsAlive do
                        caller.Interrupt()
                        Thread.Sleep 1

                    Expect.equal strays.Value 0 "none ran on"
                    Expect.isGreaterThan told.Value 0 "interrupts were met"))

        testCase "callers on several threads get their own exceptions" (fun () ->
            withThreads 2 (fun workers ->
                let call (name: string) =
                    let found = ResizeArray()

                    let body () =
                        for _ in 1..500 do
                            found.Add
                                (thrown workers 6 (fun _ -> raise (TimeoutException name))).Value.Message

                    let thread = Thread(body, IsBackground = true)
                    thread.Start()
                    thread, name, found

                for thread, name, found in [ call "one"; call "two" ] do
                    thread.Join()
                    Expect.all found ((=) name) name
                    Expect.equal found.Count 500 name))
    ]
