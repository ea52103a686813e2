namespace LayerSkip

open System
open System.IO
open System.Threading
open System.Threading.Tasks

/// Steps that follow one another as long as they succeed.
[<RequireQualifiedAccess>]
module internal HubStep =
    let andThen (next: 'A -> Task<Result<'B, HubFault>>) (before: Task<Result<'A, HubFault>>) =
        task {
            match! before with
            | Ok value -> return! next value
            | Error fault -> return Error fault
        }

    let map (change: 'A -> 'B) (before: Task<Result<'A, HubFault>>) =
        task {
            let! result = before
            return Result.map change result
        }

    /// Work on all of them, so many at a time; the first fault ends the others. `place` is for faults of writing.
    let each
        (many: int)
        (place: string)
        (cancel: CancellationToken)
        (work: CancellationToken -> 'A -> Task<Result<'B, HubFault>>)
        (items: 'A list)
        : Task<Result<'B list, HubFault>> =
        task {
            use ending = CancellationTokenSource.CreateLinkedTokenSource cancel
            use places = new SemaphoreSlim(max 1 many)

            let fails (fault: HubFault) =
                ending.Cancel()
                Some(Error fault)

            let one item =
                task {
                    try
                        do! places.WaitAsync ending.Token

                        try
                            match! work ending.Token item with
                            | Ok made -> return Some(Ok made)
                            | Error fault -> return fails fault
                        finally
                            places.Release() |> ignore
                    with
                    // Another's fault, which is told.
                    | :? OperationCanceledException when not cancel.IsCancellationRequested -> return None
                    | e when (WriteFault.ofWriting place e).IsSome ->
                        return fails (HubFault.Here (WriteFault.ofWriting place e).Value)
                }

            let! results = items |> List.map one |> Task.WhenAll
            let results = results |> Array.choose id |> List.ofArray
            let isFault (result: Result<'B, HubFault>) = Result.isError result

            match List.tryFind isFault results with
            | Some(Error fault) -> return Error fault
            | _ -> return Ok(List.choose Result.toOption results)
        }

/// Brings a model into the cache.
[<Sealed>]
type internal HubPull(http: HubHttp, options: HubOptions, name: HubName, tell: HubProgress -> unit) =
    let escaped (path: string) = path.Split '/' |> Array.map Uri.EscapeDataString |> String.concat "/"

    let gate = obj ()

    let mutable transfer = { Files = 0; FilesDone = 0; Bytes = 0L; Total = 0L; Fetched = 0L }

    let report (change: HubTransfer -> HubTransfer) =
        lock gate (fun () ->
            transfer <- change transfer
            tell (HubProgress.Transfer transfer))

    let came (here: int64) (fetched: int64) =
        report (fun it -> { it with Bytes = it.Bytes + here; Fetched = it.Fetched + fetched })

    let remark (text: string) = lock gate (fun () -> tell (HubProgress.Remark text))

    // When, in milliseconds, what is told of waiting is nearly over.
    let mutable waited = 0L

    /// Files that come at once wait for one hub: one line tells of all of them.
    let waits (why: string) (delay: TimeSpan) =
        lock gate (fun () ->
            let now = Environment.TickCount64

            if delay >= TimeSpan.FromSeconds 1.0 && now >= waited then
                waited <- now + int64 (0.9 * delay.TotalMilliseconds)
                let seconds = int (ceil delay.TotalSeconds)

                tell (
                    HubProgress.Remark
                        $"{name.Repository}: {why}; waiting for {seconds} s, then it is asked again"
                ))

    let each cancel work items = HubStep.each options.Parallel options.Cache cancel work items

    let resolveUri (commit: string) (path: string) =
        Uri $"{options.Endpoint}/{name.Repository}/resolve/{commit}/{escaped path}"

    // It becomes the name of a file.
    let isEtag (etag: string) = HubName.isFile etag && not (etag.Contains '/') && etag.Length <= 128

    /// What the hub says of a file, asked for without it.
    let describe (commit: string) cancel (path: string) =
        HubRetry.run options waits cancel (fun () ->
            task {
                let uri = resolveUri commit path

                match! http.Head(uri, cancel) with
                | Error fault -> return Error fault
                | Ok answer ->
                    use answer = answer

                    match answer.Etag, answer.Size with
                    | Some etag, Some size when isEtag etag ->
                        if answer.Commit |> Option.exists (fun other -> other <> commit) then
                            return Error(HubFault.Wrong $"{path} is another commit's than was asked for")
                        else
                            return Ok { Path = path; Uri = uri; Etag = etag; Size = size }
                    | _ -> return Error(HubFault.Wrong $"the hub tells no length and ETag of {path}")
            })

    let pathIn commit (file: HubFile) =
        Path.Combine(HubCache.snapshot options name.Repository commit, file.Path)
    let blobOf (file: HubFile) = HubCache.blob options name.Repository file.Etag
    let isThere (path: string) (file: HubFile) = HubCache.length path = Some file.Size

    /// The blob of a file: what is there, or what comes.
    let bring (file: HubFile) cancel =
        task {
            let blob = blobOf file
            let onWait () = remark $"{name.Repository}: another process downloads {file.Path}; waiting for it"
            use! _mine = HubCache.lock options name.Repository file.Etag onWait cancel

            if isThere blob file then
                came file.Size 0L
                return Ok()
            else
                let incomplete = HubCache.incomplete blob
                Directory.CreateDirectory(Path.GetDirectoryName blob) |> ignore

                let! fetched =
                    task {
                        use fetch = new HubFetch(http, options, file, incomplete, came, waits, cancel)
                        return! fetch.Run()
                    }

                return
                    fetched
                    |> Result.map (fun () ->
                        File.Move(incomplete, blob, true)
                        FolderSync.flush (Path.GetDirectoryName blob))
        }

    /// A file of the snapshot, in its place last of all.
    let place commit cancel (file: HubFile) =
        task {
            let path = pathIn commit file

            if isThere path file then
                came file.Size 0L
                report (fun it -> { it with FilesDone = it.FilesDone + 1 })
                return Ok()
            else
                let! brought = bring file cancel

                return
                    brought
                    |> Result.map (fun () ->
                        HubCache.link (blobOf file) path
                        report (fun it -> { it with FilesDone = it.FilesDone + 1 }))
        }

    /// What the plan's first files name, where the repository has it.
    let named (snapshot: string) (plan: HubPlan) (listing: string list) : Result<string list, HubFault> =
        let named = HubLocal.named snapshot plan
        let isHere (name, _) = List.contains name listing

        match named |> List.filter snd |> List.filter (isHere >> not) with
        | (absent, _) :: _ ->
            Error(HubFault.Unfit $"its index names {absent}, which the repository has not; name another")
        | [] -> named |> List.filter isHere |> List.map fst |> Ok

    /// The room that is needed, before anything large comes.
    let checkRoom commit (files: HubFile list) : Result<unit, HubFault> =
        let begun file = HubCache.length (HubCache.incomplete (blobOf file)) |> Option.defaultValue 0L

        let missing (file: HubFile) =
            if isThere (pathIn commit file) file || isThere (blobOf file) file then
                0L
            else
                max 0L (file.Size - begun file)

        match HubCache.checkRoom options (List.sumBy missing files) with
        | [] -> Ok()
        | faults -> Error(HubFault.Here faults)

    /// The commit that a revision is now, and its files.
    member _.Ask(retries: int, cancel: CancellationToken) : Task<Result<string * string list, HubFault>> =
        let uri =
            Uri
                $"{options.Endpoint}/api/models/{name.Repository}/revision/{Uri.EscapeDataString name.Revision}"

        let listing (bytes: byte[]) =
            match Json.parse bytes with
            | Error _ -> Error(HubFault.Wrong $"{options.Endpoint} answers no JSON")
            | Ok document ->
                use document = document

                try
                    let root = JsonPart document.RootElement
                    let files = [ for file in (root.Field "siblings").Items -> (file.Field "rfilename").Text ]

                    match (root.Field "sha").Text with
                    | commit when HubName.isCommit commit -> Ok(commit, files)
                    | _ -> Error(HubFault.Wrong $"{options.Endpoint} names no commit of the model")
                with
                | JsonFault(place, fault) ->
                    Error(HubFault.Wrong $"{options.Endpoint} tells of no model: \"{place}\" {fault}")
                | :? InvalidOperationException ->
                    Error(HubFault.Wrong $"{options.Endpoint} tells of no model")

        HubRetry.run { options with Retries = retries } waits cancel (fun () ->
            task {
                match! http.Text(uri, cancel) with
                | Error fault -> return Error fault
                | Ok bytes -> return listing bytes
            })

    /// Brings what is missing of a commit with these files. A folder's config.json, a model's first .gguf, come last: until then
    /// there is no model.
    member _.Bring
        (commit: string, listing: string list, cancel: CancellationToken)
        : Task<Result<HubSnapshot, HubFault>> =
        let snapshot = HubCache.snapshot options name.Repository commit
        let describeAll paths = each cancel (describe commit) paths
        let placeAll files = each cancel (place commit) files

        let placeRest (plan: HubPlan) (first: HubFile list) (rest: HubFile list) =
            let all = first @ rest
            let last, others = rest |> List.partition (fun file -> file.Path = plan.Last)

            report (fun it -> { it with Files = all.Length; Total = all |> List.sumBy _.Size })

            Task.FromResult(checkRoom commit rest)
            |> HubStep.andThen (fun () -> placeAll others)
            |> HubStep.andThen (fun _ -> placeAll last)
            |> HubStep.map (fun _ ->
                all |> List.iter (blobOf >> HubCache.clear)
                HubCache.setCommit options name commit

                {
                    Name = name
                    Commit = commit
                    Path = HubLocal.pathOf snapshot plan
                    Files = all |> List.map (fun file -> file.Path, file.Size)
                    Fetched = transfer.Fetched
                })

        let bringPlan (plan: HubPlan) =
            describeAll plan.First
            |> HubStep.andThen (fun first ->
                placeAll first
                |> HubStep.andThen (fun _ -> Task.FromResult(named snapshot plan listing))
                |> HubStep.andThen (fun named ->
                    named @ plan.Rest @ [ plan.Last ] |> List.distinct |> describeAll)
                |> HubStep.andThen (placeRest plan first))

        match HubFiles.plan name.File listing with
        | Error why -> Task.FromResult(Error(HubFault.Unfit why))
        | Ok plan -> bringPlan plan
