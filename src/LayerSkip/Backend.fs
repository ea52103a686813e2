namespace LayerSkip

open System
open System.IO
open System.Reflection
open System.Runtime.InteropServices
open LayerSkip.Kernels
open TorchSharp

/// What computes: a processor, or a GPU through CUDA.
[<RequireQualifiedAccess>]
type Device =
    | Cpu
    | Cuda

/// Where libtorch was found, and how TorchSharp's own library was made to load.
type BackendInfo = {
    /// The folder of libtorch_cpu.so.
    Folder: string
    /// How it was found: "LAYERSKIP_LIBTORCH", "beside the program" or "NuGet cache".
    Origin: string
    /// Whether the TorchSharp library is a copy with one version need marked weak.
    Patched: bool
}

/// Finds libtorch and loads it before TorchSharp looks for it itself.
///
/// TorchSharp 0.107 asks the C++ run-time for the version tag GLIBCXX_3.4.32, which Debian 12 and Ubuntu 22.04
/// lack; no symbol that it uses carries that tag. There we load a copy whose need of it is marked weak.
[<RequireQualifiedAccess>]
module Backend =
    let private variable = "LAYERSKIP_LIBTORCH"
    let private shimName = "libLibTorchSharp.so"
    let private versionNeeded = "GLIBCXX_3.4.32"

    /// Sets VER_FLG_WEAK on each need of `tag` in an ELF64 file's .gnu.version_r; returns how many it set.
    let internal weaken (elf: byte[]) (tag: string) : int =
        let u16 at = int (BitConverter.ToUInt16(elf, at))
        let u32 at = int (BitConverter.ToUInt32(elf, at))
        let u64 at = int (BitConverter.ToUInt64(elf, at))
        let section index = u64 0x28 + index * u16 0x3A
        let isNeeds index = u32 (section index + 4) = 0x6ffffffe

        let text at = Text.Encoding.ASCII.GetString(elf, at, Array.IndexOf(elf, 0uy, at) - at)

        let rec follow count at nextAt visit =
            if count > 0 then
                visit at
                follow (count - 1) (at + u32 (at + nextAt)) nextAt visit

        let mutable changed = 0

        for index in Seq.filter isNeeds (seq { 0 .. u16 0x3C - 1 }) do
            let strings = u64 (section (u32 (section index + 40)) + 24)

            follow (u32 (section index + 44)) (u64 (section index + 24)) 12 (fun need ->
                follow (u16 (need + 2)) (need + u32 (need + 8)) 12 (fun entry ->
                    if text (strings + u32 (entry + 8)) = tag then
                        elf[entry + 4] <- elf[entry + 4] ||| 2uy
                        changed <- changed + 1))

        changed

    let private torchSharp = lazy (typeof<torch.Tensor>.Assembly)

    let private packageFolders () =
        let fromEnvironment = Environment.GetEnvironmentVariable "NUGET_PACKAGES"
        let home = Environment.GetFolderPath Environment.SpecialFolder.UserProfile

        [
            if not (String.IsNullOrEmpty fromEnvironment) then
                fromEnvironment
            Path.Combine(home, ".nuget", "packages")
        ]

    /// The native folders of a package's versions in the NuGet cache, newest first.
    let private inPackages (id: string) = [
        for packages in packageFolders () do
            let root = Path.Combine(packages, id)

            if Directory.Exists root then
                for version in Directory.GetDirectories root |> Array.sortDescending do
                    Path.Combine(version, "runtimes", "linux-x64", "native")
    ]

    let private besideProgram () =
        let beside (folder: string) = [ folder; Path.Combine(folder, "runtimes", "linux-x64", "native") ]

        beside AppContext.BaseDirectory
        @ (match Path.GetDirectoryName torchSharp.Value.Location with
           | null
           | "" -> []
           | folder -> beside folder)

    let private holds file folder = File.Exists(Path.Combine(folder, file))

    /// The folder of libtorch and how it was found, or why there is none.
    let private findTorch () =
        match Environment.GetEnvironmentVariable variable with
        | null
        | "" ->
            let places =
                [ for folder in besideProgram () -> folder, "beside the program" ]
                @ [ for folder in inPackages "libtorch-cpu-linux-x64" -> folder, "NuGet cache" ]

            match places |> List.tryFind (fun (folder, _) -> holds "libtorch_cpu.so" folder) with
            | Some place -> Ok place
            | None ->
                Error(
                    $"no libtorch_cpu.so beside the program or in the NuGet cache ({packageFolders () |> List.head}); "
                    + $"run `dotnet build` in the project, or set {variable} to a folder that holds libtorch 2.10 (a Python torch's lib folder will do)"
                )
        | folder when holds "libtorch_cpu.so" folder -> Ok(folder, variable)
        | folder ->
            Error
                $"{variable} names {folder}, which holds no libtorch_cpu.so; name a libtorch lib folder, or unset it"

    /// A copy of TorchSharp's library that older C++ run-times load, made once per user and version.
    let private patchedShim (shim: string) =
        let key =
            $"{shim}|{File.GetLastWriteTimeUtc(shim).Ticks}"
            |> Text.Encoding.UTF8.GetBytes
            |> Security.Cryptography.SHA256.HashData
            |> Convert.ToHexString

        let cache =
            match Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData) with
            | null
            | "" -> Path.Combine(Path.GetTempPath(), $"layerskip-{Environment.UserName}")
            | folder -> Path.Combine(folder, "layerskip")

        let folder = Path.Combine(cache, "native-" + key.Substring(0, 16))
        let copy = Path.Combine(folder, shimName)

        if not (File.Exists copy) then
            Directory.CreateDirectory folder |> ignore
            let elf = File.ReadAllBytes shim
            weaken elf versionNeeded |> ignore
            let unfinished = $"{copy}.{Environment.ProcessId}"
            File.WriteAllBytes(unfinished, elf)
            File.Move(unfinished, copy, true)

        copy

    /// libtorch's parts in the order in which they need each other; those of CUDA only where they are there.
    let private parts = [
        "libc10.so"
        "libtorch_cpu.so"
        "libc10_cuda.so"
        "libtorch_cuda.so"
        "libtorch.so"
    ]

    let private reason (e: exn) = e.Message.Replace('\n', ' ').Trim()

    let private loadFrom (folder, origin) =
        let shims =
            (if origin = variable then [ folder ] else [])
            @ besideProgram ()
            @ inPackages "torchsharp"

        match shims |> List.tryFind (holds shimName) with
        | None ->
            Error $"no {shimName} beside the program or in the NuGet cache; run `dotnet build` in the project"
        | Some shimFolder ->
            try
                // Loaded by full path first: the shim then finds them by name wherever its copy lies.
                for part in parts do
                    if holds part folder then
                        NativeLibrary.Load(Path.Combine(folder, part)) |> ignore

                let shim = Path.Combine(shimFolder, shimName)
                let mutable handle = 0n
                let asIs = NativeLibrary.TryLoad(shim, &handle)

                if not asIs then
                    handle <- NativeLibrary.Load(patchedShim shim)

                let loaded = handle

                NativeLibrary.SetDllImportResolver(
                    torchSharp.Value,
                    fun name _ _ ->
                        match name with
                        | "LibTorchSharp"
                        | "torch_cpu"
                        | "torch_cuda" -> loaded
                        | _ -> 0n
                )

                Ok { Folder = folder; Origin = origin; Patched = not asIs }
            with
            | :? DllNotFoundException
            | :? BadImageFormatException
            | :? IOException
            | :? UnauthorizedAccessException as e ->
                Error
                    $"{folder} ({origin}) does not load: {reason e}; install a libtorch 2.10 for this system and name its folder in {variable}"

    // Once a process: two copies of libtorch in one abort it.
    let private loaded =
        lazy
            (if not (RuntimeInformation.IsOSPlatform OSPlatform.Linux) then
                 Ok { Folder = AppContext.BaseDirectory; Origin = "TorchSharp's own search"; Patched = false }
             else
                 findTorch () |> Result.bind loadFrom)

    /// Loads libtorch if that has not been done; everything that makes a tensor calls it first.
    let load () : Result<BackendInfo, LayerSkipError list> =
        loaded.Value |> Result.mapError (fun tried -> [ LayerSkipError.NoBackend tried ])

    /// `load`, where no Result can go.
    let ensure () : unit = load () |> Check.getOrRaise |> ignore

    /// The TorchSharp device, or why it is not there: never another one in silence.
    let tryDevice (device: Device) : Result<torch.Device, LayerSkipError list> =
        load ()
        |> Result.bind (fun info ->
            match device with
            | Device.Cpu -> Ok torch.CPU
            | Device.Cuda ->
                let missing why = Error [ LayerSkipError.NoDevice("cuda", why) ]

                if not (holds "libtorch_cuda.so" info.Folder) then
                    missing
                        $"the libtorch in use ({info.Origin}) is for CPUs; build with `-p:TorchBackend=cuda`, set {variable} to a CUDA libtorch, or use the CPU"
                else
                    try
                        if torch.cuda.is_available () then
                            Ok torch.CUDA
                        else
                            missing "no NVIDIA GPU or driver was found; use the CPU"
                    with e ->
                        missing $"{reason e}; use the CPU")

    /// The most threads that can be asked for, by whatever way.
    let mostThreads = Workers.Most

    let internal checkThreads (threads: int) : unit =
        if threads < 1 || threads > mostThreads then
            raise (
                LayerSkipException [
                    LayerSkipError.OutOfRange("threads", string threads, $"1 to {mostThreads}")
                ]
            )

    /// Threads that libtorch's own products use, 1 to `mostThreads`; a LayerSkipException else.
    let setThreads (threads: int) : unit =
        checkThreads threads
        ensure ()
        torch.set_num_threads threads

    let threads () : int =
        ensure ()
        torch.get_num_threads ()
